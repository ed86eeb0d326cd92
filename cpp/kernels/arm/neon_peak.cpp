#include <arm_neon.h>

#include "kernels/peak.h"

namespace lora_edge::neon {

// 16 multiply-adds in three instructions: 8 products of bytes, 8 more added to them, and their pairs added to the sum.
// Cores that don't reorder (Cortex-A53) would wait 3 to 4 cycles for each: so 8 of one kind before the next.
int64_t int8_peak(int rounds) {
  constexpr int kSums = 8;
  int8x16_t w = vdupq_n_s8(3);
  const int8x16_t x = vdupq_n_s8(5);
  int32x4_t sum[kSums] = {};
  int16x8_t product[kSums] = {};
  for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
    for (int s = 0; s < kSums; ++s) {
      opaque(w);
      product[s] = vmull_s8(vget_low_s8(w), vget_low_s8(x));
      opaque(product[s]);
    }
#pragma GCC unroll 8
    for (int s = 0; s < kSums; ++s) {
      product[s] = vmlal_high_s8(product[s], w, x);
      opaque(product[s]);
    }
#pragma GCC unroll 8
    for (int s = 0; s < kSums; ++s) {
      sum[s] = vpadalq_s16(sum[s], product[s]);
      opaque(sum[s]);
    }
  }
  return int64_t{rounds} * kSums * 16;
}

}  // namespace lora_edge::neon
