// Streams and events of the emulated CUDA driver.
//
// For tests only. All work has finished when the call that asks for it
// returns: waiting costs nothing, and a program that forgets to wait is not
// found out.
#include <chrono>
#include <cstdint>
#include <set>

#include "state.h"

namespace emulator {
namespace {

constexpr unsigned DISABLE_TIMING = 2;
constexpr int NOT_CAPTURING = 0;

// What is alive, so that a handle that was destroyed is noticed. Never
// destroyed: other threads may still use the library while main returns.
auto& streams = *new std::set<void*>;
auto& events = *new std::set<void*>;

double now() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(time).count();
}

bool is_event(void* handle) {
  const std::lock_guard<std::mutex> lock(state);
  return events.count(handle) != 0;
}

}  // namespace

CUresult check_stream(void* stream, const Context* context) {
  // The default stream, and the legacy and per-thread ones by their numbers.
  if (reinterpret_cast<std::uintptr_t>(stream) <= 2) return CUDA_SUCCESS;
  const std::lock_guard<std::mutex> lock(state);
  if (streams.count(stream) == 0) return CUDA_ERROR_INVALID_HANDLE;
  const bool own = context == nullptr || static_cast<Stream*>(stream)->context == context;
  return own ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

}  // namespace emulator

using namespace emulator;

// ---- streams ------------------------------------------------------------------

CUDA_API cuStreamCreate(void** stream, unsigned) {
  Context* context;
  if (const CUresult error = current_context(&context)) return error;
  const std::lock_guard<std::mutex> lock(state);
  *stream = new Stream{context};
  streams.insert(*stream);
  return CUDA_SUCCESS;
}

CUDA_API cuStreamCreateWithPriority(void** stream, unsigned flags, int) {
  return cuStreamCreate(stream, flags);
}

CUDA_API cuStreamDestroy_v2(void* stream) {
  const std::lock_guard<std::mutex> lock(state);
  if (streams.erase(stream) == 0) return CUDA_ERROR_INVALID_HANDLE;
  delete static_cast<Stream*>(stream);
  return CUDA_SUCCESS;
}

CUDA_API cuStreamSynchronize(void* stream) {
  Context* context;
  if (const CUresult error = current_context(&context)) return error;
  return check_stream(stream);
}

CUDA_API cuStreamQuery(void* stream) { return cuStreamSynchronize(stream); }

CUDA_API cuStreamWaitEvent(void* stream, void* event, unsigned) {
  if (!is_event(event)) return CUDA_ERROR_INVALID_HANDLE;
  return cuStreamSynchronize(stream);
}

CUDA_API cuStreamIsCapturing(void* stream, int* status) {
  *status = NOT_CAPTURING;
  return cuStreamSynchronize(stream);
}

// ---- events -------------------------------------------------------------------

CUDA_API cuEventCreate(void** event, unsigned flags) {
  Context* context;
  if (const CUresult error = current_context(&context)) return error;
  const std::lock_guard<std::mutex> lock(state);
  *event = new Event{context, (flags & DISABLE_TIMING) == 0, false, 0};
  events.insert(*event);
  return CUDA_SUCCESS;
}

CUDA_API cuEventDestroy_v2(void* event) {
  const std::lock_guard<std::mutex> lock(state);
  if (events.erase(event) == 0) return CUDA_ERROR_INVALID_HANDLE;
  delete static_cast<Event*>(event);
  return CUDA_SUCCESS;
}

CUDA_API cuEventRecord(void* handle, void* stream) {
  if (!is_event(handle)) return CUDA_ERROR_INVALID_HANDLE;
  Event* event = static_cast<Event*>(handle);
  if (const CUresult error = check_stream(stream, event->context)) return error;
  event->recorded = true;
  event->milliseconds = now();
  return CUDA_SUCCESS;
}

CUDA_API cuEventQuery(void* event) {
  return is_event(event) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUDA_API cuEventSynchronize(void* event) { return cuEventQuery(event); }

CUDA_API cuEventElapsedTime(float* milliseconds, void* start, void* end) {
  if (!is_event(start) || !is_event(end)) return CUDA_ERROR_INVALID_HANDLE;
  const Event* from = static_cast<Event*>(start);
  const Event* to = static_cast<Event*>(end);
  if (!from->timed || !to->timed || !from->recorded || !to->recorded) {
    return CUDA_ERROR_INVALID_HANDLE;
  }
  *milliseconds = static_cast<float>(to->milliseconds - from->milliseconds);
  return CUDA_SUCCESS;
}
