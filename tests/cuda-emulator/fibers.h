// Fibers of the emulated CUDA driver: stacks on which GPU threads run, and
// the switch from one to another.
//
// For tests only. A switch keeps the whole of a thread's state, so that
// nothing here can show what registers or local memory cost on a GPU.
#pragma once

#if !defined(__x86_64__) && !defined(OSTRAKON_EMULATOR_UCONTEXT)
#define OSTRAKON_EMULATOR_UCONTEXT
#endif

#ifdef OSTRAKON_EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

namespace emulator {

struct Fiber {
#ifdef OSTRAKON_EMULATOR_UCONTEXT
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
  char* bottom = nullptr;  // of the stack; null: the fiber of the caller
  char* top = nullptr;
  Fiber* next_free = nullptr;
};

// A fiber with a stack of its own; stacks are kept and reused for all launches.
Fiber* take_fiber();
void give_back_fiber(Fiber* fiber);

// Leaves `from`, to be resumed by a later switch to it, and resumes `to`.
void switch_fiber(Fiber& from, Fiber& to);

// Leaves `from` and runs `entry`, which must not return, on the empty stack of
// `fresh`; whatever `fresh` did before is forgotten.
void start_fiber(Fiber& from, Fiber& fresh, void (*entry)());

}  // namespace emulator
