// Whether a GPU computes what the CPU does.
#pragma once

#include <string>

namespace lora_edge {

// Runs every kind of operation on small random input on the GPU and on the CPU. Empty: they agree; else what is wrong,
// in words. Once per process for each GPU: later calls give the same answer.
std::string cuda_self_test(int index);

}  // namespace lora_edge
