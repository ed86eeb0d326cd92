#include "backend/cuda/driver.h"

#include <dlfcn.h>

#include <cstdlib>
#include <mutex>
#include <stdexcept>

#include "base/error.h"

namespace lora_edge::cuda {
namespace {

struct Loaded {
  Driver driver{};
  std::string why;  // empty: it works
};

std::string text_of(const Driver& driver, Result result) {
  const char *name = nullptr, *text = nullptr;
  if (driver.error_name(result, &name) != 0 || !name) return concat("error ", result);
  return driver.error_text(result, &text) == 0 && text ? concat(name, ", ", text) : name;
}

Loaded load() {
  Loaded loaded;
  Driver& d = loaded.driver;
  const char* chosen = std::getenv("LORA_EDGE_LIBCUDA");
  const std::string library = chosen && *chosen ? chosen : "libcuda.so.1";
  void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    loaded.why = concat("no CUDA driver: '", library, "' can't be loaded");
    return loaded;
  }
  const char* missing = nullptr;
#define LORA_EDGE_CUDA_LOAD(name, symbol, parameters)                       \
  d.name = reinterpret_cast<Result(*) parameters>(::dlsym(handle, symbol)); \
  if (!d.name && !missing) missing = symbol;
  LORA_EDGE_CUDA_FUNCTIONS(LORA_EDGE_CUDA_LOAD)
#undef LORA_EDGE_CUDA_LOAD
#define LORA_EDGE_CUDA_LOAD(name, symbol, parameters) \
  d.name = reinterpret_cast<Result(*) parameters>(::dlsym(handle, symbol));
  LORA_EDGE_CUDA_GRAPH_FUNCTIONS(LORA_EDGE_CUDA_LOAD)
#undef LORA_EDGE_CUDA_LOAD
  if (missing) {
    loaded.why = concat("the CUDA driver is too old: it has no ", missing, "; CUDA 10.2's is the first that will do");
    return loaded;
  }
  if (const Result result = d.init(0)) {
    loaded.why = concat("the CUDA driver finds no GPU that it can use: ", text_of(d, result));
  } else if (const Result failed = d.driver_version(&d.version)) {
    loaded.why = concat("the CUDA driver doesn't say its version: ", text_of(d, failed));
  }
  return loaded;  // the library stays: a driver can't be unloaded
}

}  // namespace

void Driver::check(Result result, const char* call) const {
  if (result != 0) throw std::runtime_error(concat("[cuda] ", call, ": ", text_of(*this, result)));
}

// A library may have a symbol that its driver is too old for: by version, not by what is there.
Result Driver::instantiate(Handle* made, Handle graph) const {
  if (instantiate_114 && version >= 11040) return instantiate_114(made, graph, 0);
  if (instantiate_11 && version >= 11000) return instantiate_11(made, graph, nullptr, nullptr, 0);
  return instantiate_10 ? instantiate_10(made, graph, nullptr, nullptr, 0) : kNotFound;
}

const Driver* find_driver(std::string* why) {
  static const Loaded loaded = load();
  if (why) *why = loaded.why;
  return loaded.why.empty() ? &loaded.driver : nullptr;
}

}  // namespace lora_edge::cuda
