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
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
// The emulator learns the limit from the PTX instead, as a driver does.
#define __launch_bounds__(...)
// Blocks run one after another, so that one copy of a block's memory is enough.
#define __shared__ static

// ---- vector types -----------------------------------------------------------

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

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

inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a < b ? b : a; }
