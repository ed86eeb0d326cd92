#include <immintrin.h>

#include "kernels/peak.h"

namespace lora_edge::avx2 {

// 32 multiply-adds in three instructions: products of bytes added in pairs, these added in pairs, and the sum. Only the
// last waits for the step before, and takes one cycle: 8 sums keep two of each busy.
int64_t int8_peak(int rounds) {
  constexpr int kSums = 8;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(5), sum[kSums] = {};
  for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
    for (int s = 0; s < kSums; ++s) {
      opaque(w);
      sum[s] = _mm256_add_epi32(sum[s], _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones));
      opaque(sum[s]);
    }
  }
  return int64_t{rounds} * kSums * 32;
}

}  // namespace lora_edge::avx2
