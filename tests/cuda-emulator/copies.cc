// Memory calls of the emulated CUDA driver: allocating, copying and setting.
//
// For tests only. What a call names must lie within one allocation of the
// device, as a driver demands. The calls named Async do their work at once.
#include <cstdint>
#include <cstring>

#include "state.h"

namespace emulator {
namespace {

void* address(CUdeviceptr pointer) { return reinterpret_cast<void*>(pointer); }

CUresult check(CUdeviceptr pointer, std::size_t bytes, void* stream) {
  Context* context;
  if (const CUresult error = current_context(&context)) return error;
  if (const CUresult error = check_stream(stream)) return error;
  if (bytes == 0 || device_holds(context->device, address(pointer), bytes)) return CUDA_SUCCESS;
  return CUDA_ERROR_INVALID_VALUE;
}

CUresult copy(void* to, const void* from, std::size_t bytes) {
  if (bytes != 0) std::memcpy(to, from, bytes);
  return CUDA_SUCCESS;
}

// CUDA leaves open what a copy onto itself does; here it is refused.
bool overlap(CUdeviceptr a, CUdeviceptr b, std::size_t bytes) {
  return a < b ? b - a < bytes : a - b < bytes;
}

}  // namespace
}  // namespace emulator

using namespace emulator;

// ---- allocating ---------------------------------------------------------------

CUDA_API cuMemAllocAsync(CUdeviceptr* pointer, std::size_t bytes, void* stream) {
  Context* context;
  if (const CUresult error = current_context(&context)) return error;
  if (const CUresult error = check_stream(stream)) return error;
  void* start = nullptr;
  if (const CUresult error = allocate(context->device, bytes, &start)) return error;
  *pointer = reinterpret_cast<CUdeviceptr>(start);
  return CUDA_SUCCESS;
}

CUDA_API cuMemAlloc_v2(CUdeviceptr* pointer, std::size_t bytes) {
  return cuMemAllocAsync(pointer, bytes, nullptr);
}

CUDA_API cuMemFreeAsync(CUdeviceptr pointer, void* stream) {
  if (const CUresult error = check(pointer, 0, stream)) return error;
  return release(address(pointer), false);
}

CUDA_API cuMemFree_v2(CUdeviceptr pointer) { return cuMemFreeAsync(pointer, nullptr); }

CUDA_API cuMemHostAlloc(void** pointer, std::size_t bytes, unsigned) {
  Context* context;
  if (const CUresult error = current_context(&context)) return error;
  return allocate(HOST, bytes, pointer);
}

CUDA_API cuMemFreeHost(void* pointer) { return release(pointer, true); }

CUDA_API cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  Context* context;
  if (const CUresult error = current_context(&context)) return error;
  *total = settings().memory;
  *free = *total - allocated(context->device);
  return CUDA_SUCCESS;
}

// ---- copying ------------------------------------------------------------------

CUDA_API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, std::size_t bytes, void* stream) {
  if (const CUresult error = check(to, bytes, stream)) return error;
  return copy(address(to), from, bytes);
}

CUDA_API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes) {
  return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr);
}

CUDA_API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, std::size_t bytes, void* stream) {
  if (const CUresult error = check(from, bytes, stream)) return error;
  return copy(to, address(from), bytes);
}

CUDA_API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes) {
  return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr);
}

CUDA_API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, void* stream) {
  if (const CUresult error = check(to, bytes, stream)) return error;
  if (const CUresult error = check(from, bytes, stream)) return error;
  if (overlap(to, from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  return copy(address(to), address(from), bytes);
}

CUDA_API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) {
  return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr);
}

CUDA_API cuMemcpyPeerAsync(CUdeviceptr to, void* to_context, CUdeviceptr from, void* from_context,
                           std::size_t bytes, void* stream) {
  Context* context;
  if (const CUresult error = current_context(&context)) return error;
  if (const CUresult error = check_stream(stream)) return error;
  if (to_context == nullptr || from_context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  const CUdevice to_device = static_cast<Context*>(to_context)->device;
  const CUdevice from_device = static_cast<Context*>(from_context)->device;
  if (bytes != 0 && (!device_holds(to_device, address(to), bytes) ||
                     !device_holds(from_device, address(from), bytes) ||
                     overlap(to, from, bytes))) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return copy(address(to), address(from), bytes);
}

// ---- setting ------------------------------------------------------------------

CUDA_API cuMemsetD8Async(CUdeviceptr pointer, unsigned char value, std::size_t count,
                         void* stream) {
  if (const CUresult error = check(pointer, count, stream)) return error;
  if (count != 0) std::memset(address(pointer), value, count);
  return CUDA_SUCCESS;
}

CUDA_API cuMemsetD8_v2(CUdeviceptr pointer, unsigned char value, std::size_t count) {
  return cuMemsetD8Async(pointer, value, count, nullptr);
}
