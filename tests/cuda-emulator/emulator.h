// The language shim of the emulated CUDA driver: with this header in front
// (build.sh passes it with -include), g++ compiles our .cu kernels for the CPU.
//
// For tests only. Kernels that give the right bytes here are right as
// programs; it does NOT show how fast they are, races between warps or blocks
// (threads run one at a time, in one fixed order), nor what the driver's
// compiler makes of their PTX.
//
// It holds what our kernels use, not all of CUDA: an unknown builtin is a
// compile error, to be answered here.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "registry.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
// The emulator learns the limit from the PTX instead, as a driver does.
#define __launch_bounds__(...)
// Blocks run one after another, so that one copy of a block's memory is enough.
#define __shared__ static

// ---- vector types -----------------------------------------------------------

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };

#define OSTRAKON_VECTORS(scalar, name)                                          \
  struct alignas(2 * sizeof(scalar)) name##2 { scalar x, y; };                 \
  struct alignas(sizeof(scalar) < 8 ? 4 * sizeof(scalar) : 16) name##4 {       \
    scalar x, y, z, w;                                                         \
  };                                                                           \
  inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }         \
  inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) {      \
    return {x, y, z, w};                                                       \
  }
OSTRAKON_VECTORS(signed char, char)
OSTRAKON_VECTORS(unsigned char, uchar)
OSTRAKON_VECTORS(short, short)
OSTRAKON_VECTORS(unsigned short, ushort)
OSTRAKON_VECTORS(int, int)
OSTRAKON_VECTORS(unsigned, uint)
OSTRAKON_VECTORS(float, float)
OSTRAKON_VECTORS(long long, longlong)
OSTRAKON_VECTORS(unsigned long long, ulonglong)
OSTRAKON_VECTORS(double, double)
#undef OSTRAKON_VECTORS

// ---- where a thread is --------------------------------------------------------

namespace emulator {
extern const uint3* thread_index;  // of the thread that runs now
extern uint3 block_index;
extern dim3 block_size;
extern dim3 grid_size;
}  // namespace emulator

#define threadIdx (*::emulator::thread_index)
#define blockIdx (const_cast<const uint3&>(::emulator::block_index))
#define blockDim (const_cast<const dim3&>(::emulator::block_size))
#define gridDim (const_cast<const dim3&>(::emulator::grid_size))

// ---- barriers and warps -------------------------------------------------------

void __syncthreads();

// PTX mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32: c += a * b, with the
// fragments spread over the 32 lanes of a warp as the PTX manual says.
void mma_u8s8(int (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
              unsigned b0, unsigned b1);

// ---- bits and whole numbers ---------------------------------------------------

namespace emulator {
template <class To, class From>
inline To bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &value, sizeof to);
  return to;
}
}  // namespace emulator

inline unsigned __float_as_uint(float x) { return emulator::bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulator::bits<float>(x); }
inline int __float_as_int(float x) { return emulator::bits<int>(x); }
inline float __int_as_float(int x) { return emulator::bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulator::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator::bits<double>(x); }

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline long long __mul64hi(long long a, long long b) {
  return static_cast<long long>((static_cast<__int128>(a) * b) >> 64);
}
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
inline int __mulhi(int a, int b) {
  return static_cast<int>((static_cast<long long>(a) * b) >> 32);
}
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }

// CUDA's overloads; where a signed and an unsigned meet, both become unsigned.
#define OSTRAKON_MIN_MAX(result, left, right)                                   \
  inline result min(left a, right b) {                                         \
    return static_cast<result>(a) < static_cast<result>(b) ? static_cast<result>(a) \
                                                           : static_cast<result>(b); \
  }                                                                            \
  inline result max(left a, right b) {                                         \
    return static_cast<result>(a) < static_cast<result>(b) ? static_cast<result>(b) \
                                                           : static_cast<result>(a); \
  }
OSTRAKON_MIN_MAX(int, int, int)
OSTRAKON_MIN_MAX(unsigned, unsigned, unsigned)
OSTRAKON_MIN_MAX(unsigned, int, unsigned)
OSTRAKON_MIN_MAX(unsigned, unsigned, int)
OSTRAKON_MIN_MAX(long, long, long)
OSTRAKON_MIN_MAX(unsigned long, unsigned long, unsigned long)
OSTRAKON_MIN_MAX(long long, long long, long long)
OSTRAKON_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
#undef OSTRAKON_MIN_MAX
inline float min(float a, float b) { return __builtin_fminf(a, b); }
inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
inline double min(double a, double b) { return __builtin_fmin(a, b); }
inline double max(double a, double b) { return __builtin_fmax(a, b); }

// ---- floats: each of these rounds once, which build.sh's -ffp-contract=off keeps

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return __builtin_sqrt(a); }
