#include <immintrin.h>

#include "kernels/peak.h"

namespace lora_edge::avx512_vnni {

// 64 multiply-adds per vpdpbusd, which takes 4 to 5 cycles; one or two can begin in each: 16 sums hide that.
int64_t int8_peak(int rounds) {
  constexpr int kSums = 16;
  const __m512i w = _mm512_set1_epi8(3), x = _mm512_set1_epi8(5);
  __m512i sum[kSums] = {};
  for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int s = 0; s < kSums; ++s) {
      sum[s] = _mm512_dpbusd_epi32(sum[s], w, x);
      opaque(sum[s]);
    }
  }
  return int64_t{rounds} * kSums * 64;
}

}  // namespace lora_edge::avx512_vnni
