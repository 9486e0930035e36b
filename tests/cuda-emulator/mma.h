// The matrix product of a warp in the emulated CUDA driver; for tests only.
#pragma once

namespace emulator {

// Multiplies what the 32 lanes of a warp brought to mma_u8s8.
void multiply_fragments();

}  // namespace emulator
