// Runs kernels: blocks one after another, the threads of a block as fibers that stop at barriers.
#pragma once

#include <cstddef>

#include "failure.h"
#include "order.h"
#include "registry.h"

namespace lora_edge::standin {

struct Launch {
  Kernel* kernel;
  const void* args;
  unsigned grid[3];
  int threads;  // a multiple of 32
  size_t dynamic_bytes;
  bool static_shared;  // whether the kernel has arrays in shared memory
};

// Throws Failure where threads wait for what can't come, or use memory as a device can't.
void run_grid(const Launch& launch, Order& order);

// Ends the launch from within one of its threads.
[[noreturn]] void fail_thread(CUresult code, const std::string& what);

}  // namespace lora_edge::standin
