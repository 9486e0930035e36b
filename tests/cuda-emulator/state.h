// What the functions of the emulated CUDA driver share: settings, devices,
// and the objects behind the API's handles.
//
// For tests only. Nothing runs in the background: a call that CUDA would
// queue has finished when it returns, and no test can see an early return.
#pragma once

#include <cstddef>
#include <mutex>
#include <string>

#include "api.h"
#include "registry.h"

namespace emulator {

// Read from the environment by the first cuInit.
struct Settings {
  int devices = 1;                                   // OSTRAKON_EMULATED_DEVICES
  std::size_t memory = std::size_t(8) << 30;         // OSTRAKON_EMULATED_MEMORY, bytes
  unsigned long long lost_at = 0;                    // OSTRAKON_EMULATED_LOST; 0: never
  bool backwards = false;                            // OSTRAKON_EMULATED_BACKWARDS
};
const Settings& settings();

// The primary context of a device; it exists while it has users.
struct Context {
  CUdevice device;
  int users;
};

struct Stream {
  Context* context;
};

struct Event {
  Context* context;
  bool timed;
  bool recorded;
  double milliseconds;
};

struct Module {
  Context* context;
  std::string text;
};

struct Function {
  Context* context;
  const Kernel* kernel;
  unsigned max_threads;
};

// Guards everything but the threads of a launch.
extern std::mutex state;

// The calling thread's context, or null; CUDA_ERROR_NOT_INITIALIZED before cuInit.
CUresult current_context(Context** context);

// Whether the stream is alive: one that was made, or one of the three that
// every context has without making them. Kernels and events go only to streams
// of their own context, which is named for them; copies go to any.
CUresult check_stream(void* stream, const Context* context = nullptr);

// ---- memory.cc: these take the mutex themselves ----------------------------------

constexpr CUdevice HOST = -1;

// Memory of a device, or page-locked memory of the host.
CUresult allocate(CUdevice device, std::size_t bytes, void** address);
CUresult release(void* address, bool host);
// Whether these bytes lie within one living allocation of the device.
bool device_holds(CUdevice device, const void* address, std::size_t bytes);
std::size_t allocated(CUdevice device);

// ---- module.cc -------------------------------------------------------------------

// Whether the PTX text has an entry for this kernel, with its parameters; and
// how many threads a block of it may have.
bool find_entry(const std::string& text, const Kernel& kernel, unsigned* max_threads);

// ---- faults.cc -------------------------------------------------------------------

// From now on, a kernel's access to memory that it does not have is named on
// stderr before the process dies of it.
void report_faults();

}  // namespace emulator
