// Launches of the emulated CUDA driver: what cuLaunchKernel refuses, as a
// driver would, and what it hands to blocks.cc.
//
// For tests only. A driver reports what goes wrong inside a kernel with a
// later call; here the launch itself reports it, or the process dies.
#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "blocks.h"
#include "state.h"

namespace emulator {
namespace {

// Launches of all streams and devices, one after another.
std::mutex launches;

constexpr unsigned MAX_THREADS = 1024, MAX_DEPTH = 64, MAX_GRID_YZ = 65535;
constexpr unsigned MAX_SHARED_BYTES = 48 * 1024;

bool fits(dim3 grid, dim3 block, unsigned max_threads) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return false;
  if (block.x == 0 || block.y == 0 || block.z == 0) return false;
  if (grid.x > 0x7fffffffu || grid.y > MAX_GRID_YZ || grid.z > MAX_GRID_YZ) return false;
  if (block.x > MAX_THREADS || block.y > MAX_THREADS || block.z > MAX_DEPTH) return false;
  return block.x * block.y * block.z <= max_threads;
}

// A pointer to nothing is allowed, and so is one to the end of an allocation:
// a kernel need not follow them. Any other stray pointer is a mistake of the
// caller, which a kernel for the CPU could follow even into the host's memory.
void check_pointers(const Kernel& kernel, CUdevice device, void** arguments) {
  for (std::size_t at = 0; at < kernel.parameter_count; ++at) {
    if (!kernel.parameters[at].pointer) continue;
    const void* pointer = *static_cast<void**>(arguments[at]);
    if (pointer == nullptr || device_holds(device, pointer, 0)) continue;
    std::fprintf(stderr,
                 "ostrakon emulator: kernel %s: argument %zu is %p, which is no memory of "
                 "device %d\n",
                 kernel.name, at, pointer, device);
    std::abort();
  }
}

}  // namespace
}  // namespace emulator

using namespace emulator;

CUDA_API cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z,
                        unsigned shared_bytes, void* stream, void** arguments, void** extra) {
  Context* context;
  if (const CUresult error = current_context(&context)) return error;
  if (handle == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const Function& function = *static_cast<Function*>(handle);
  if (function.context != context) return CUDA_ERROR_INVALID_CONTEXT;
  if (const CUresult error = check_stream(stream, context)) return error;
  const dim3 grid = {grid_x, grid_y, grid_z}, block = {block_x, block_y, block_z};
  if (!fits(grid, block, function.max_threads) || shared_bytes > MAX_SHARED_BYTES ||
      extra != nullptr || (arguments == nullptr && function.kernel->parameter_count != 0)) {
    return CUDA_ERROR_INVALID_VALUE;
  }

  static std::atomic<unsigned long long> launched{0};
  const unsigned long long lost_at = settings().lost_at;
  if (++launched >= lost_at && lost_at != 0) return CUDA_ERROR_ECC_UNCORRECTABLE;

  check_pointers(*function.kernel, context->device, arguments);
  const std::lock_guard<std::mutex> lock(launches);
  run_grid(*function.kernel, grid, block, arguments, settings().backwards);
  return CUDA_SUCCESS;
}

CUDA_API cuLaunchHostFunc(void*, void (*function)(void*), void* argument) {
  function(argument);
  return CUDA_SUCCESS;
}
