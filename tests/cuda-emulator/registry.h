// The registry of kernels of the emulated CUDA driver: which functions a
// module's names stand for, and how to call them with a launch's `void**`.
//
// For tests only. It reads each parameter with the type that the C++ function
// has; whether a caller meant those types shows only as far as module.cc
// compares them with the PTX.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

namespace emulator {

struct Parameter {
  std::size_t size;
  bool pointer;
};

class Kernel {
 public:
  template <class... Arguments>
  Kernel(const char* name, void (*function)(Arguments...))
      : name(name),
        parameters(Signature<Arguments...>::parameters),
        parameter_count(sizeof...(Arguments)),
        function_(reinterpret_cast<void (*)()>(function)),
        unpack_(&Signature<Arguments...>::unpack),
        next_(first) {
    first = this;
  }

  void call(void** arguments) const { unpack_(function_, arguments); }

  static const Kernel* find(const char* name);

  const char* const name;
  const Parameter* const parameters;
  const std::size_t parameter_count;

 private:
  template <class... Arguments>
  struct Signature {
    // The last one only keeps the array from being empty.
    static constexpr Parameter parameters[] = {
        {sizeof(Arguments), std::is_pointer_v<Arguments>}..., {0, false}};

    static void unpack(void (*function)(), void** arguments) {
      unpack_each(function, arguments, std::index_sequence_for<Arguments...>{});
    }
    template <std::size_t... Index>
    static void unpack_each(void (*function)(), [[maybe_unused]] void** arguments,
                            std::index_sequence<Index...>) {
      reinterpret_cast<void (*)(Arguments...)>(function)(
          *static_cast<std::remove_cv_t<Arguments>*>(arguments[Index])...);
    }
  };

  void (*const function_)();
  void (*const unpack_)(void (*)(), void**);
  const Kernel* const next_;

  // Constant-initialised, so that kernels can register in any order.
  static const Kernel* first;
};

}  // namespace emulator

#define OSTRAKON_KERNEL(name) \
  static const ::emulator::Kernel ostrakon_kernel_##name(#name, &name);
