// Fibers of the emulated CUDA driver: see fibers.h.
//
// For tests only; all of it runs under the mutex of a launch.
#include "fibers.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace emulator {

constexpr std::size_t STACK_BYTES = 64 * 1024;
constexpr std::size_t COLOURS_BYTES = 4096;

static Fiber* free_fibers = nullptr;

static Fiber* make_fiber() {
  static std::size_t made = 0;
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t usable = STACK_BYTES + COLOURS_BYTES;
  // The guard page lies below: a stack that grows past its end faults there.
  void* map = mmap(nullptr, page + usable, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED ||
      mprotect(static_cast<char*>(map) + page, usable, PROT_READ | PROT_WRITE) != 0) {
    std::perror("ostrakon emulator: no memory for a stack");
    std::abort();
  }
  Fiber* fiber = new Fiber;
  fiber->bottom = static_cast<char*>(map) + page;
  // Stacks that all begin at the same place of a page would share a few
  // lines of the processor's cache; five lines of 64 bytes apart, they spread.
  fiber->top = fiber->bottom + usable - (made++ * 5 * 64) % COLOURS_BYTES;
  return fiber;
}

Fiber* take_fiber() {
  if (free_fibers == nullptr) return make_fiber();
  Fiber* fiber = free_fibers;
  free_fibers = fiber->next_free;
  return fiber;
}

// The last one given back is the first one taken: its memory is the warmest.
void give_back_fiber(Fiber* fiber) {
  fiber->next_free = free_fibers;
  free_fibers = fiber;
}

#ifdef OSTRAKON_EMULATOR_UCONTEXT

void switch_fiber(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

void start_fiber(Fiber& from, Fiber& fresh, void (*entry)()) {
  getcontext(&fresh.context);
  fresh.context.uc_stack.ss_sp = fresh.bottom;
  fresh.context.uc_stack.ss_size = static_cast<std::size_t>(fresh.top - fresh.bottom);
  fresh.context.uc_link = nullptr;
  makecontext(&fresh.context, entry, 0);
  swapcontext(&from.context, &fresh.context);
}

#else

// Saves what a called function must keep, changes stacks, and goes on where
// the other stack left off. It jumps where a function would return: the
// processor expects a return to lead back to the last call, and would be wrong
// each time, while it learns where an indirect jump leads.
extern "C" void ostrakon_switch(void** save, void* resume);
asm(R"(
    .pushsection .text
    .p2align 4
    .hidden ostrakon_switch
    .type ostrakon_switch, @function
ostrakon_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rax
    jmp *%rax
    .size ostrakon_switch, . - ostrakon_switch
    .popsection
)");

void switch_fiber(Fiber& from, Fiber& to) {
  ostrakon_switch(&from.stack_pointer, to.stack_pointer);
}

void start_fiber(Fiber& from, Fiber& fresh, void (*entry)()) {
  // What ostrakon_switch finds: six registers, then where to go. Above that
  // lies a return address of nothing, which aligns the stack as a call would.
  std::uintptr_t* top = reinterpret_cast<std::uintptr_t*>(fresh.top);
  *--top = 0;
  *--top = reinterpret_cast<std::uintptr_t>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = 0;
  ostrakon_switch(&from.stack_pointer, top);
}

#endif

}  // namespace emulator
