// Blocks of the emulated CUDA driver: how the threads of a launch run.
//
// Every GPU thread is a fiber. The lanes of a warp run one after another, each
// up to its next barrier; a warp goes on until all its lanes wait for the
// block or are done; then comes the next warp.
//
// For tests only. The order is fixed, forwards or backwards, so that a missing
// barrier shows only where one of the two orders trips over it; blocks never
// run together, so that races between them do not show.
#include "blocks.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "fibers.h"
#include "mma.h"

namespace emulator {

const uint3* thread_index = nullptr;
uint3 block_index;
dim3 block_size;
dim3 grid_size;

namespace {

enum class State : unsigned char { FRESH, AT_BLOCK, AT_WARP, DONE };

struct Thread {
  uint3 index;
  State state;
  Fiber* fiber;
};

struct Tally {
  unsigned at_block = 0, at_warp = 0, done = 0;
};

// One launch runs at a time, and these are its state.
auto& threads = *new std::vector<Thread>;
const Kernel* running_kernel;
void** running_arguments;
Fiber scheduler;
Thread* current;
Thread* last;       // of this pass over a warp
std::ptrdiff_t step;  // 1, or -1 backwards
bool fresh;         // whether the lanes of this pass have not begun yet
Tally tally;        // what the lanes of this pass came to

thread_local bool launching = false;

void set_current(Thread* thread) {
  current = thread;
  thread_index = &thread->index;
}

[[noreturn]] void fail(const Thread& thread, const char* what) {
  std::fprintf(stderr,
               "ostrakon emulator: kernel %s, block (%u,%u,%u), thread (%u,%u,%u): %s\n",
               running_kernel->name, block_index.x, block_index.y, block_index.z,
               thread.index.x, thread.index.y, thread.index.z, what);
  std::abort();
}

// The life of a fiber: threads that run to their end without a wait follow
// each other on one stack, and most kernels need no switch at all.
void run_threads() {
  Fiber* mine = current->fiber;
  for (;;) {
    running_kernel->call(running_arguments);
    current->state = State::DONE;
    ++tally.done;
    if (current == last || !fresh) break;
    set_current(current + step);
    current->fiber = mine;
  }
  // From here on only the stack's next user may rely on what it holds, and
  // there is none before the switch below.
  give_back_fiber(mine);
  if (current == last) {
    switch_fiber(*mine, scheduler);
  } else {
    set_current(current + step);
    switch_fiber(*mine, *current->fiber);
  }
  __builtin_unreachable();
}

void begin(Fiber& from, Thread* thread) {
  set_current(thread);
  thread->fiber = take_fiber();
  start_fiber(from, *thread->fiber, run_threads);
}

// Called by a thread that has to wait: runs the next lane of the pass, or the
// scheduler after the last one. Straight from lane to lane is half the switches.
void yield_lane() {
  Fiber& mine = *current->fiber;
  if (current == last) {
    switch_fiber(mine, scheduler);
  } else if (fresh) {
    begin(mine, current + step);
  } else {
    set_current(current + step);
    switch_fiber(mine, *current->fiber);
  }
}

const Thread& first_in(State state, const Thread* begin, const Thread* end) {
  for (const Thread* thread = begin; thread != end; ++thread) {
    if (thread->state == state) return *thread;
  }
  return *begin;
}

// Runs the lanes of one warp until all of them wait for the block, or all are
// done: anything else is a barrier that not all threads come to.
State run_warp(Thread* begin_lane, Thread* end_lane, bool begin_fresh) {
  const unsigned lanes = static_cast<unsigned>(end_lane - begin_lane);
  Thread* from = step > 0 ? begin_lane : end_lane - 1;
  last = step > 0 ? end_lane - 1 : begin_lane;
  for (fresh = begin_fresh;; fresh = false) {
    tally = Tally();
    if (fresh) {
      begin(scheduler, from);
    } else {
      set_current(from);
      switch_fiber(scheduler, *from->fiber);
    }
    if (tally.at_warp == 0) break;
    if (lanes != WARP) fail(*from, "calls mma_u8s8 in a warp of fewer than 32 threads");
    if (tally.done != 0) {
      fail(first_in(State::DONE, begin_lane, end_lane),
           "returned while others of its warp wait in mma_u8s8");
    }
    if (tally.at_block != 0) {
      fail(first_in(State::AT_BLOCK, begin_lane, end_lane),
           "waits at __syncthreads while others of its warp wait in mma_u8s8");
    }
    multiply_fragments();
  }
  if (tally.at_block == lanes) return State::AT_BLOCK;
  if (tally.done == lanes) return State::DONE;
  fail(first_in(State::DONE, begin_lane, end_lane),
       "returned while others of its block wait at __syncthreads");
}

void run_block() {
  const std::size_t count = threads.size();
  const std::size_t warps = (count + WARP - 1) / WARP;
  for (bool fresh_block = true;; fresh_block = false) {
    std::size_t done = 0;
    for (std::size_t turn = 0; turn < warps; ++turn) {
      const std::size_t warp = step > 0 ? turn : warps - 1 - turn;
      Thread* begin_lane = &threads[warp * WARP];
      Thread* end_lane = threads.data() + std::min((warp + 1) * WARP, count);
      if (run_warp(begin_lane, end_lane, fresh_block) == State::DONE) ++done;
    }
    if (done == warps) return;
    if (done != 0) {
      fail(first_in(State::DONE, threads.data(), threads.data() + count),
           "returned while others of its block wait at __syncthreads");
    }
  }
}

}  // namespace

void run_grid(const Kernel& kernel, dim3 grid, dim3 block, void** arguments, bool backwards) {
  running_kernel = &kernel;
  running_arguments = arguments;
  grid_size = grid;
  block_size = block;
  step = backwards ? -1 : 1;
  threads.clear();
  for (unsigned z = 0; z < block.z; ++z) {
    for (unsigned y = 0; y < block.y; ++y) {
      for (unsigned x = 0; x < block.x; ++x) {
        threads.push_back({{x, y, z}, State::FRESH, nullptr});
      }
    }
  }
  launching = true;
  const unsigned long long layer = static_cast<unsigned long long>(grid.x) * grid.y;
  const unsigned long long blocks = layer * grid.z;
  for (unsigned long long turn = 0; turn < blocks; ++turn) {
    const unsigned long long at = backwards ? blocks - 1 - turn : turn;
    block_index = {static_cast<unsigned>(at % grid.x),
                   static_cast<unsigned>(at / grid.x % grid.y),
                   static_cast<unsigned>(at / layer)};
    run_block();
  }
  launching = false;
}

unsigned lane() { return static_cast<unsigned>(current - threads.data()) % WARP; }

void meet_warp() {
  current->state = State::AT_WARP;
  ++tally.at_warp;
  yield_lane();
}

const char* describe_thread() {
  static char text[256];
  if (!launching) return nullptr;
  std::snprintf(text, sizeof text, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u)",
                running_kernel->name, block_index.x, block_index.y, block_index.z,
                thread_index->x, thread_index->y, thread_index->z);
  return text;
}

}  // namespace emulator

void __syncthreads() {
  using namespace emulator;
  current->state = State::AT_BLOCK;
  ++tally.at_block;
  yield_lane();
}
