// Faults of kernels in the emulated CUDA driver: which thread of which kernel
// touched memory that it does not have.
//
// For tests only. A GPU would report such an access as an error of a later
// call; here the process dies, as it should in a test.
#include <signal.h>
#include <unistd.h>

#include <cstdio>

#include "blocks.h"
#include "state.h"

namespace emulator {
namespace {

struct sigaction earlier_segv, earlier_bus;

void on_fault(int signal, siginfo_t* info, void* context) {
  if (const char* thread = describe_thread()) {
    char line[400];
    const int length = std::snprintf(
        line, sizeof line, "ostrakon emulator: %s: touched address %p, which is no memory of it\n",
        thread, info->si_addr);
    if (length > 0) {
      [[maybe_unused]] const auto written = write(2, line, static_cast<std::size_t>(length));
    }
  }
  // Others use this signal too, wasmtime for one: what was set before goes on.
  const struct sigaction& earlier = signal == SIGBUS ? earlier_bus : earlier_segv;
  if (earlier.sa_flags & SA_SIGINFO) {
    earlier.sa_sigaction(signal, info, context);
  } else if (earlier.sa_handler != SIG_DFL && earlier.sa_handler != SIG_IGN) {
    earlier.sa_handler(signal);
  } else {
    sigaction(signal, &earlier, nullptr);  // the access comes again, and kills
  }
}

}  // namespace

void report_faults() {
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &earlier_segv);
  sigaction(SIGBUS, &action, &earlier_bus);
}

}  // namespace emulator
