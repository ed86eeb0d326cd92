#include <arm_neon.h>

#include "kernels/peak.h"

namespace lora_edge::neon_dotprod {

// 16 multiply-adds per sdot, which takes 3 to 4 cycles; up to four can begin in each: 16 sums hide that.
int64_t int8_peak(int rounds) {
  constexpr int kSums = 16;
  const int8x16_t w = vdupq_n_s8(3), x = vdupq_n_s8(5);
  int32x4_t sum[kSums] = {};
  for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int s = 0; s < kSums; ++s) {
      sum[s] = vdotq_s32(sum[s], w, x);
      opaque(sum[s]);
    }
  }
  return int64_t{rounds} * kSums * 16;
}

}  // namespace lora_edge::neon_dotprod
