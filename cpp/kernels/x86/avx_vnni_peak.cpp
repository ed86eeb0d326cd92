#include <immintrin.h>

#include "kernels/peak.h"

namespace lora_edge::avx_vnni {

// 32 multiply-adds per vpdpbusd, which takes 4 to 5 cycles; up to two can begin in each: 12 sums hide that.
int64_t int8_peak(int rounds) {
  constexpr int kSums = 12;
  const __m256i w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(5);
  __m256i sum[kSums] = {};
  for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int s = 0; s < kSums; ++s) {
      sum[s] = _mm256_dpbusd_avx_epi32(sum[s], w, x);
      opaque(sum[s]);
    }
  }
  return int64_t{rounds} * kSums * 32;
}

}  // namespace lora_edge::avx_vnni
