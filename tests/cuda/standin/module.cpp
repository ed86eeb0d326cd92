#include "module.h"

#include <cctype>
#include <cstdio>
#include <cstring>

namespace lora_edge::standin {
namespace {

// The first place of `word` from `at` on, where it must come.
size_t find(const std::string& text, const char* word, size_t at) {
  const size_t found = text.find(word, at);
  if (found == std::string::npos) fail(CUDA_ERROR_INVALID_PTX, "no '", word, "' after '", clip(text.substr(at)), "'");
  return found;
}

// Bytes of the arrays in shared memory that a function declares, or that the module declares and it names.
size_t shared_bytes(const std::string& text, size_t body, size_t end) {
  size_t sum = 0;
  for (size_t at = text.find(".shared "); at != std::string::npos; at = text.find(".shared ", at + 1)) {
    char name[256];
    size_t bytes;
    if (std::sscanf(text.c_str() + at, ".shared .align %*d .b8 %255[^[][%zu]", name, &bytes) != 2) continue;
    if ((at > body && at < end) || (text.find(name, body) < end && text.rfind('{', at) == std::string::npos))
      sum += bytes;
  }
  return sum;
}

// The function whose declaration begins at text[at], if it is one of the kernels here: checked against that.
void read_entry(const std::string& text, size_t at, int version, Module& module) {
  const size_t open = find(text, "(", at), close = find(text, ")", open), body = find(text, "{", close),
               end = find(text, "\n}", body);
  std::string name;
  for (size_t i = at + std::strlen(".entry"); i < open; ++i) {
    if (!std::isspace(static_cast<unsigned char>(text[i]))) name += text[i];
  }
  const auto known = kernels().find(name);
  if (known == kernels().end()) return;
  Kernel& kernel = known->second;

  const std::string parameters = text.substr(open + 1, close - open - 1), bounds = text.substr(close, body - close);
  size_t bytes = 0;
  if (parameters.find(',') != std::string::npos ||
      std::sscanf(parameters.c_str(), " .param .align %*d .b8 %*[^[][%zu]", &bytes) != 1)
    fail(CUDA_ERROR_INVALID_PTX, name, " takes other parameters than one struct: '", clip(parameters), "'");
  if (bytes != kernel.args_bytes)
    fail(CUDA_ERROR_INVALID_PTX, name, " takes ", bytes, " bytes in PTX and ", kernel.args_bytes, " in C++");
  int most;
  const size_t threads = bounds.find(".maxntid");
  if (threads != std::string::npos && std::sscanf(bounds.c_str() + threads, ".maxntid %d", &most) == 1 &&
      most != kernel.most_threads)
    fail(CUDA_ERROR_INVALID_PTX, name, " is bound to ", most, " threads in PTX and ", kernel.most_threads, " in C++");
  module.functions[name] = {&kernel, module.device, version, shared_bytes(text, body, end), kSharedBytes};
}

}  // namespace

Module load_module(const std::string& ptx, const Machine& machine, int device) {
  const size_t start = ptx.find(".version");
  int major, minor, target;
  char kind = 0;  // of sm_90a and the like, which no other device runs
  if (start == std::string::npos ||
      std::sscanf(ptx.c_str() + start, ".version %d.%d .target sm_%d%c", &major, &minor, &target, &kind) < 3)
    fail(CUDA_ERROR_INVALID_PTX, "this is not PTX: '", clip(ptx), "'");
  const int version = 10 * major + minor, known = machine.ptx();
  if (version > known)
    fail(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "PTX ", major, ".", minor, " for a driver that knows up to ", known / 10,
         ".", known % 10);
  if (target > machine.sm() || (std::isalpha(static_cast<unsigned char>(kind)) && target != machine.sm()))
    fail(CUDA_ERROR_NO_BINARY_FOR_GPU, "code for sm_", target, " on sm_", machine.sm());
  Module module{device, {}};
  for (size_t at = ptx.find(".entry"); at != std::string::npos; at = ptx.find(".entry", at + 1))
    read_entry(ptx, at, version, module);
  return module;
}

}  // namespace lora_edge::standin
