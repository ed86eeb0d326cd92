// The kernels that are compiled into the stand-in, and what was done with each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace lora_edge::standin {

struct Kernel {
  const char* name;
  size_t args_bytes;              // of the one parameter
  int most_threads;               // of a block
  void (*run)(const void* args);  // one thread of it
  uint64_t launches = 0;          // by the host
  uint64_t replays = 0;           // as part of a graph
  uint64_t barriers = 0;          // sync(), once per block
  uint64_t warp_barriers = 0;     // sync_warp(), shuffles and mma_s8, once per warp
};

using Kernels = std::map<std::string, Kernel>;
Kernels& kernels();

// Calls of the driver's functions by name.
std::map<std::string, uint64_t>& calls();

// Bytes that came to the host.
uint64_t& copied_out();

// Appends to the file what was counted since the process began, and returns 0, or -1 where it can't be written:
//   kernel NAME launches N replays N barriers N warp_barriers N
//   call NAME N
//   copied out N
// This is done at exit with LORA_EDGE_STANDIN_COUNT's file.
extern "C" __attribute__((visibility("default"))) int lora_edge_standin_write_counts(const char* path);

}  // namespace lora_edge::standin
