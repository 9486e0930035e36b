// Device memory of the emulated CUDA driver.
//
// Every allocation lies between two inaccessible pages and ends, rounded up to
// 16 bytes, right before the second: a kernel that runs over the end dies. The
// memory is filled with 0xA5, so that results that were not written show; the
// few bytes around the allocation are compared with 0xA5 when it is freed.
//
// For tests only. A kernel that strays from one part of an allocation into
// another part of the same allocation is not noticed.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "state.h"

namespace emulator {
namespace {

constexpr unsigned char FILL = 0xA5;
constexpr std::size_t ALIGNMENT = 16;

struct Allocation {
  CUdevice device;
  std::size_t bytes;
  char* pages;  // the accessible ones, between the two guards
  std::size_t page_bytes;
};

// Never destroyed: other threads may still use the library while main returns.
auto& allocations = *new std::map<std::uintptr_t, Allocation>;
auto& totals = *new std::map<CUdevice, std::size_t>;

std::size_t page_size() {
  static const std::size_t size = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

void check_fill(const char* from, const char* to, const void* address) {
  for (const char* byte = from; byte != to; ++byte) {
    if (static_cast<unsigned char>(*byte) == FILL) continue;
    std::fprintf(stderr,
                 "ostrakon emulator: someone wrote outside of the allocation at %p, "
                 "%td bytes from its start\n",
                 address, byte - static_cast<const char*>(address));
    std::abort();
  }
}

}  // namespace

CUresult allocate(CUdevice device, std::size_t bytes, void** address) {
  // CUDA documents this for cuMemAlloc; newer devices let cuMemAllocAsync pass,
  // but a program must not count on that.
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard<std::mutex> lock(state);
  const std::size_t limit = device == HOST ? SIZE_MAX / 2 : settings().memory;
  std::size_t& total = totals[device];
  if (bytes > limit || round_up(bytes, ALIGNMENT) > limit - total) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  const std::size_t page_bytes = round_up(bytes, page_size());
  void* map = mmap(nullptr, page_bytes + 2 * page_size(), PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  char* pages = static_cast<char*>(map) + page_size();
  if (mprotect(pages, page_bytes, PROT_READ | PROT_WRITE) != 0) {
    munmap(map, page_bytes + 2 * page_size());
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  std::memset(pages, FILL, page_bytes);
  char* start = pages + page_bytes - round_up(bytes, ALIGNMENT);
  allocations[reinterpret_cast<std::uintptr_t>(start)] = {device, bytes, pages, page_bytes};
  total += round_up(bytes, ALIGNMENT);
  *address = start;
  return CUDA_SUCCESS;
}

CUresult release(void* address, bool host) {
  if (address == nullptr) return CUDA_SUCCESS;
  const std::lock_guard<std::mutex> lock(state);
  const auto found = allocations.find(reinterpret_cast<std::uintptr_t>(address));
  if (found == allocations.end()) return CUDA_ERROR_INVALID_VALUE;
  const Allocation allocation = found->second;
  if ((allocation.device == HOST) != host) return CUDA_ERROR_INVALID_VALUE;
  const char* start = static_cast<const char*>(address);
  check_fill(allocation.pages, start, start);
  check_fill(start + allocation.bytes, allocation.pages + allocation.page_bytes, start);
  munmap(allocation.pages - page_size(), allocation.page_bytes + 2 * page_size());
  totals[allocation.device] -= round_up(allocation.bytes, ALIGNMENT);
  allocations.erase(found);
  return CUDA_SUCCESS;
}

bool device_holds(CUdevice device, const void* address, std::size_t bytes) {
  const std::lock_guard<std::mutex> lock(state);
  const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(address);
  auto found = allocations.upper_bound(at);
  if (found == allocations.begin()) return false;
  --found;
  const std::size_t offset = at - found->first;
  const Allocation& allocation = found->second;
  return (allocation.device == device || allocation.device == HOST) &&
         offset <= allocation.bytes && bytes <= allocation.bytes - offset;
}

std::size_t allocated(CUdevice device) {
  const std::lock_guard<std::mutex> lock(state);
  return totals[device];
}

}  // namespace emulator
