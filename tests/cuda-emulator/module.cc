// Modules of the emulated CUDA driver: PTX text in, kernels of the registry out.
//
// The PTX is not run: it only has to name the kernels that run in its place,
// with as many parameters of the same sizes, so that a test notices PTX that
// was not made again after a kernel changed.
//
// For tests only. It does NOT show that the PTX does what the kernel does, nor
// that the driver's compiler accepts it.
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

#include "state.h"

namespace emulator {

const Kernel* Kernel::first = nullptr;

const Kernel* Kernel::find(const char* name) {
  const Kernel* kernel = first;
  while (kernel != nullptr && std::strcmp(kernel->name, name) != 0) kernel = kernel->next_;
  return kernel;
}

namespace {

// The size of one parameter, such as `.param .u64 .ptr .align 1 add_param_0`
// or `.param .align 8 .b8 add_param_1[24]`.
std::size_t parameter_size(const std::string& declaration) {
  std::istringstream words(declaration);
  std::size_t size = 0;
  for (std::string word; words >> word;) {
    if (word.size() >= 3 && word[0] == '.' && std::strchr("busf", word[1]) != nullptr &&
        std::isdigit(static_cast<unsigned char>(word[2]))) {
      size = std::strtoul(word.c_str() + 2, nullptr, 10) / 8;
    }
  }
  const std::size_t bracket = declaration.find('[');
  if (bracket != std::string::npos) {
    size *= std::strtoul(declaration.c_str() + bracket + 1, nullptr, 10);
  }
  return size;
}

// What follows `.entry NAME`, up to its body; empty where there is none.
std::string entry_head(const std::string& text, const std::string& name) {
  static const std::string keyword = ".entry";
  for (std::size_t at = text.find(keyword); at != std::string::npos;
       at = text.find(keyword, at + 1)) {
    std::size_t begin = at + keyword.size();
    while (begin < text.size() && std::isspace(static_cast<unsigned char>(text[begin]))) ++begin;
    const std::size_t end = begin + name.size();
    if (begin == at + keyword.size() || text.compare(begin, name.size(), name) != 0) continue;
    if (end < text.size() && (std::isalnum(static_cast<unsigned char>(text[end])) ||
                              std::strchr("_$", text[end]) != nullptr)) {
      continue;
    }
    const std::size_t body = text.find('{', end);
    return " " + text.substr(end, body == std::string::npos ? body : body - end);
  }
  return "";
}

}  // namespace

bool find_entry(const std::string& text, const Kernel& kernel, unsigned* max_threads) {
  const std::string head = entry_head(text, kernel.name);
  if (head.empty()) return false;

  const std::size_t open = head.find_first_not_of(" \t\r\n");
  if (open != std::string::npos && head[open] == '(') {
    std::istringstream list(head.substr(open + 1, head.find(')', open) - open - 1));
    std::vector<std::size_t> sizes;
    for (std::string declaration; std::getline(list, declaration, ',');) {
      if (declaration.find(".param") != std::string::npos) {
        sizes.push_back(parameter_size(declaration));
      }
    }
    bool same = sizes.size() == kernel.parameter_count;
    for (std::size_t at = 0; same && at < sizes.size(); ++at) {
      same = sizes[at] == kernel.parameters[at].size;
    }
    if (!same) {
      std::fprintf(stderr,
                   "ostrakon emulator: the PTX of kernel %s has other parameters than its source\n",
                   kernel.name);
      return false;
    }
  }

  *max_threads = 1024;
  for (const char* directive : {".maxntid", ".reqntid"}) {
    const std::size_t at = head.find(directive);
    if (at == std::string::npos) continue;
    std::istringstream numbers(head.substr(at + std::strlen(directive)));
    unsigned product = 1, number = 0;
    char comma = ',';
    while (comma == ',' && numbers >> number) {
      product *= number;
      if (!(numbers >> comma)) break;
    }
    *max_threads = product;
  }
  return true;
}

static CUresult load(void** module, const std::string& text) {
  Context* context;
  if (const CUresult error = current_context(&context)) return error;
  const std::size_t version = text.find(".version");
  if (version == std::string::npos || version > text.find(".entry")) return CUDA_ERROR_INVALID_PTX;
  *module = new Module{context, text};
  return CUDA_SUCCESS;
}

}  // namespace emulator

using namespace emulator;

CUDA_API cuModuleLoadData(void** module, const void* image) {
  if (module == nullptr || image == nullptr) return CUDA_ERROR_INVALID_VALUE;
  // Machine code, alone or bundled, is not text and has no end to look for.
  if (std::memcmp(image, "\x7f" "ELF", 4) == 0 || std::memcmp(image, "\x50\xed\x55\xba", 4) == 0) {
    return CUDA_ERROR_INVALID_IMAGE;
  }
  return load(module, static_cast<const char*>(image));
}

CUDA_API cuModuleLoadDataEx(void** module, const void* image, unsigned, void*, void**) {
  return cuModuleLoadData(module, image);
}

CUDA_API cuModuleLoad(void** module, const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  std::ostringstream text;
  text << file.rdbuf();
  return cuModuleLoadData(module, text.str().c_str());
}

CUDA_API cuModuleUnload(void* module) {
  delete static_cast<Module*>(module);
  return CUDA_SUCCESS;
}

CUDA_API cuModuleGetFunction(void** function, void* module, const char* name) {
  if (function == nullptr || module == nullptr || name == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Module* owner = static_cast<Module*>(module);
  const Kernel* kernel = Kernel::find(name);
  unsigned max_threads;
  if (kernel == nullptr || !find_entry(owner->text, *kernel, &max_threads)) {
    return CUDA_ERROR_NOT_FOUND;
  }
  // Kept for good: CUDA has no call to give a function back.
  *function = new Function{owner->context, kernel, max_threads};
  return CUDA_SUCCESS;
}

CUDA_API cuFuncGetAttribute(int* value, int attribute, void* function) {
  if (value == nullptr || function == nullptr) return CUDA_ERROR_INVALID_VALUE;
  constexpr int MAX_THREADS_PER_BLOCK = 0, PTX_VERSION = 5, BINARY_VERSION = 6;
  switch (attribute) {
    case MAX_THREADS_PER_BLOCK:
      *value = static_cast<int>(static_cast<Function*>(function)->max_threads);
      break;
    case PTX_VERSION:
    case BINARY_VERSION:
      *value = 80;
      break;
    default:
      *value = 0;
  }
  return CUDA_SUCCESS;
}
