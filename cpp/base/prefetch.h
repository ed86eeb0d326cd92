// Memory asked for before it is needed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lora_edge {

// Into L2, which takes more lines at a time than L1. They needn't be there any more.
inline void prefetch(const uint8_t* data, size_t n_bytes) {
  for (size_t at = 0; at < n_bytes; at += 64) __builtin_prefetch(data + at, 0, 2);
}

}  // namespace lora_edge
