#include "kernels/peak.h"

namespace lora_edge::ref {

// One product and one sum after the other, in general registers. A product takes 3 to 4 cycles and one can begin in
// each: 8 sums hide that.
int64_t int8_peak(int rounds) {
  constexpr int kSums = 8;
  uint32_t sum[kSums] = {};
  for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
    for (int s = 0; s < kSums; ++s) {
      uint32_t w = 3, x = 5;
      asm volatile("" : "+r"(w), "+r"(x));
      sum[s] += w * x;
      asm volatile("" : "+r"(sum[s]));
    }
  }
  return int64_t{rounds} * kSums;
}

}  // namespace lora_edge::ref
