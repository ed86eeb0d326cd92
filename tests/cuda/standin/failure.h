// What ends a call of the driver with a result other than success.
#pragma once

#include <stdexcept>
#include <string>

#include "base/error.h"
#include "cuda_types.h"

namespace lora_edge::standin {

struct Failure : std::runtime_error {
  Failure(CUresult result, const std::string& what) : std::runtime_error(what), code(result) {}
  CUresult code;
};

template <class... Parts>
[[noreturn]] void fail(CUresult code, const Parts&... parts) {
  throw Failure(code, concat(parts...));
}

}  // namespace lora_edge::standin
