// Blocks of the emulated CUDA driver: how the threads of a launch run.
//
// For tests only: see blocks.cc for what it does not show.
#pragma once

#include "emulator.h"

namespace emulator {

constexpr unsigned WARP = 32;

// Runs all blocks of a launch, one after another; the caller holds the mutex
// of launches. `backwards` runs blocks and threads in the opposite order.
void run_grid(const Kernel& kernel, dim3 grid, dim3 block, void** arguments, bool backwards);

// The lane of the thread that runs now.
unsigned lane();

// Waits for all 32 lanes of the warp; multiply_fragments (mma.cc) runs once
// when all have come.
void meet_warp();

// Where the calling OS thread is in a launch, as text; null outside a launch.
const char* describe_thread();

}  // namespace emulator
