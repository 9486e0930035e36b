// The emulated CUDA driver: its start, its devices, contexts and errors.
//
// For tests only: a `libcuda.so` that runs our kernels on the CPU, so that all
// of the Rust backend runs without a GPU and is compared byte for byte. It
// does NOT show speed, races between warps or blocks, or what the driver's
// compiler makes of the PTX. `Settings` in state.h names the environment
// variables, build.sh how to use the library.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "state.h"

namespace emulator {

std::mutex state;

namespace {

bool initialised = false;
Settings from_environment;
auto& contexts = *new std::vector<Context>;  // one for each device, made once
thread_local Context* current = nullptr;

unsigned long long number(const char* variable, unsigned long long otherwise) {
  const char* text = std::getenv(variable);
  if (text == nullptr) return otherwise;
  char* end;
  const unsigned long long value = std::strtoull(text, &end, 10);
  if (*text == '\0' || *end != '\0') {
    std::fprintf(stderr, "ostrakon emulator: %s=%s is no number\n", variable, text);
    std::abort();
  }
  return value;
}

struct Message {
  CUresult error;
  const char* name;
  const char* text;
};

#define MESSAGE(name, text) {name, #name, text}
constexpr Message messages[] = {
    MESSAGE(CUDA_SUCCESS, "no error"),
    MESSAGE(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    MESSAGE(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    MESSAGE(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    MESSAGE(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    MESSAGE(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    MESSAGE(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    MESSAGE(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    MESSAGE(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered"),
    MESSAGE(CUDA_ERROR_INVALID_PTX, "a PTX JIT compilation failed"),
    MESSAGE(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
    MESSAGE(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    MESSAGE(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    MESSAGE(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    MESSAGE(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
};
#undef MESSAGE

const Message* find_message(CUresult error) {
  for (const Message& message : messages) {
    if (message.error == error) return &message;
  }
  return nullptr;
}

bool exists(CUdevice device) {
  return device >= 0 && static_cast<std::size_t>(device) < contexts.size();
}

struct Attribute {
  int number;
  int value;
};

// Numbers as CUdevice_attribute has them. Where it says nothing, 0 is the answer.
constexpr Attribute attributes[] = {
    {1, 1024},                // MAX_THREADS_PER_BLOCK
    {2, 1024}, {3, 1024}, {4, 64},             // MAX_BLOCK_DIM_X, _Y, _Z
    {5, 0x7fffffff}, {6, 65535}, {7, 65535},   // MAX_GRID_DIM_X, _Y, _Z
    {8, 48 * 1024},           // MAX_SHARED_MEMORY_PER_BLOCK
    {9, 64 * 1024},           // TOTAL_CONSTANT_MEMORY
    {10, 32},                 // WARP_SIZE
    {12, 65536},              // MAX_REGISTERS_PER_BLOCK
    {13, 1410000},            // CLOCK_RATE
    {16, 8},                  // MULTIPROCESSOR_COUNT
    {39, 2048},               // MAX_THREADS_PER_MULTIPROCESSOR
    {41, 1},                  // UNIFIED_ADDRESSING
    {75, 8}, {76, 0},         // COMPUTE_CAPABILITY_MAJOR, _MINOR
    {81, 164 * 1024},         // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    {82, 65536},              // MAX_REGISTERS_PER_MULTIPROCESSOR
    {97, 163 * 1024},         // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    {106, 32},                // MAX_BLOCKS_PER_MULTIPROCESSOR
    {111, 1024},              // RESERVED_SHARED_MEMORY_PER_BLOCK
    {115, 1},                 // MEMORY_POOLS_SUPPORTED
};

}  // namespace

const Settings& settings() { return from_environment; }

CUresult current_context(Context** context) {
  if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
  if (current == nullptr || current->users == 0) return CUDA_ERROR_INVALID_CONTEXT;
  *context = current;
  return CUDA_SUCCESS;
}

}  // namespace emulator

using namespace emulator;

CUDA_API cuInit(unsigned flags) {
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const std::lock_guard<std::mutex> lock(state);
  if (initialised) return CUDA_SUCCESS;
  from_environment.devices = static_cast<int>(number("OSTRAKON_EMULATED_DEVICES", 1));
  from_environment.memory = number("OSTRAKON_EMULATED_MEMORY", from_environment.memory);
  from_environment.lost_at = number("OSTRAKON_EMULATED_LOST", 0);
  from_environment.backwards = number("OSTRAKON_EMULATED_BACKWARDS", 0) != 0;
  if (from_environment.devices <= 0) return CUDA_ERROR_NO_DEVICE;
  for (CUdevice device = 0; device < from_environment.devices; ++device) {
    contexts.push_back({device, 0});
  }
  report_faults();
  initialised = true;
  return CUDA_SUCCESS;
}

CUDA_API cuDriverGetVersion(int* version) {
  *version = 12020;
  return CUDA_SUCCESS;
}

CUDA_API cuGetErrorName(CUresult error, const char** name) {
  const Message* message = find_message(error);
  *name = message ? message->name : nullptr;
  return message ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUDA_API cuGetErrorString(CUresult error, const char** text) {
  const Message* message = find_message(error);
  *text = message ? message->text : nullptr;
  return message ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// ---- devices ------------------------------------------------------------------

CUDA_API cuDeviceGetCount(int* count) {
  if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
  *count = settings().devices;
  return CUDA_SUCCESS;
}

CUDA_API cuDeviceGet(CUdevice* device, int ordinal) {
  if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
  if (!exists(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUDA_API cuDeviceGetName(char* name, int length, CUdevice device) {
  if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  if (length <= 0) return CUDA_ERROR_INVALID_VALUE;
  std::snprintf(name, static_cast<std::size_t>(length), "Ostrakon emulated device");
  return CUDA_SUCCESS;
}

CUDA_API cuDeviceGetUuid(char* uuid, CUdevice device) {
  if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  std::memcpy(uuid, "ostrakon-emulate", 16);
  uuid[15] = static_cast<char>(device);
  return CUDA_SUCCESS;
}

CUDA_API cuDeviceGetUuid_v2(char* uuid, CUdevice device) { return cuDeviceGetUuid(uuid, device); }

CUDA_API cuDeviceTotalMem_v2(std::size_t* bytes, CUdevice device) {
  if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  *bytes = settings().memory;
  return CUDA_SUCCESS;
}

CUDA_API cuDeviceGetAttribute(int* value, int wanted, CUdevice device) {
  if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  *value = 0;
  for (const Attribute& attribute : attributes) {
    if (attribute.number == wanted) *value = attribute.value;
  }
  return CUDA_SUCCESS;
}

// ---- contexts -----------------------------------------------------------------

CUDA_API cuDevicePrimaryCtxRetain(void** context, CUdevice device) {
  if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  const std::lock_guard<std::mutex> lock(state);
  Context& primary = contexts[static_cast<std::size_t>(device)];
  ++primary.users;
  *context = &primary;
  return CUDA_SUCCESS;
}

CUDA_API cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  if (!exists(device)) return CUDA_ERROR_INVALID_DEVICE;
  const std::lock_guard<std::mutex> lock(state);
  Context& primary = contexts[static_cast<std::size_t>(device)];
  if (primary.users == 0) return CUDA_ERROR_INVALID_CONTEXT;
  --primary.users;
  return CUDA_SUCCESS;
}

CUDA_API cuCtxGetCurrent(void** context) {
  if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
  *context = current;
  return CUDA_SUCCESS;
}

CUDA_API cuCtxSetCurrent(void* context) {
  if (!initialised) return CUDA_ERROR_NOT_INITIALIZED;
  current = static_cast<Context*>(context);
  return CUDA_SUCCESS;
}

CUDA_API cuCtxGetDevice(CUdevice* device) {
  Context* context;
  if (const CUresult error = current_context(&context)) return error;
  *device = context->device;
  return CUDA_SUCCESS;
}

CUDA_API cuCtxSetFlags(unsigned) {
  Context* context;
  return current_context(&context);
}

CUDA_API cuCtxSynchronize() {
  Context* context;
  return current_context(&context);
}

CUDA_API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = 0;
  return CUDA_SUCCESS;
}
