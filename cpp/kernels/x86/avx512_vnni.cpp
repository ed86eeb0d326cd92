// Q8_0 matmul with the byte dot products of AVX-512 VNNI (Ice Lake, Zen 4 and later).
//
// vpdpbusd adds four products of unsigned by signed bytes to each 32-bit sum: w + 128, unsigned, by x. That is too
// large by 128 times the sum of x's block, with which each sum begins.
#if !defined(LORA_EDGE_EMULATE_VNNI) && !(defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512BW__))
#error "built with AVX-512 F, BW, VL and VNNI only"
#endif
#include "kernels/peak.h"
#include "kernels/x86/q8_panel.h"

namespace lora_edge::avx512_vnni {
namespace {

using namespace lora_edge::avx2;  // NOLINT: the helpers are this file's own copy

struct Products {
  static constexpr bool kFlipped = true;

  static __m256i few(__m256i w, __m256i x) { return _mm256_dpbusd_epi32(_mm256_setzero_si256(), flip(w), x); }

  using Block = FlippedBlock;
  // Registers of 32: 8 float sums, 8 integer sums, the weights of a step, scales. A dot product takes 4 to 5 cycles and
  // one can begin in each: 8 independent sums hide that. Four bytes of x are broadcast from memory for each.
  static constexpr int kTokens = 8;
  template <int n>
  static void tile(const Tile<Block>& t) {
    const __mmask16 lanes = static_cast<__mmask16>(t.count >= kPanelRows ? 0xffffu : (1u << t.count) - 1);
    __m512 acc[n];
    for (int i = 0; i < n; ++i)
      acc[i] = t.first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, t.y + static_cast<size_t>(i) * t.ldy);
    for (int b = 0; b < t.blocks; ++b) {
      __m512i dot[n];
      for (int i = 0; i < n; ++i)
        dot[i] = _mm512_set1_epi32(-128 * t.xs[static_cast<size_t>(i) * t.ldd + static_cast<size_t>(b)]);
#pragma GCC unroll 8
      for (int e = 0; e < kBlock / 4; ++e) {
        const __m512i w = _mm512_loadu_si512(t.panel[b].w[e]);
#pragma GCC unroll 8
        for (int i = 0; i < n; ++i) {
          const int8_t* x = t.xq + static_cast<size_t>(i) * t.ldq + b * kBlock + e * 4;
          dot[i] = _mm512_dpbusd_epi32(dot[i], w, _mm512_set1_epi32(load_i32(x)));
        }
      }
      const __m512 dw = _mm512_loadu_ps(t.panel[b].d);
      for (int i = 0; i < n; ++i) {
        const __m512 dx = _mm512_set1_ps(t.xd[static_cast<size_t>(i) * t.ldd + static_cast<size_t>(b)]);
        acc[i] = _mm512_fmadd_ps(_mm512_mul_ps(dw, dx), _mm512_cvtepi32_ps(dot[i]), acc[i]);
      }
    }
    for (int i = 0; i < n; ++i) _mm512_mask_storeu_ps(t.y + static_cast<size_t>(i) * t.ldy, lanes, acc[i]);
  }
};

}  // namespace

void install(Table& t) {
  t.name = "avx512_vnni";
  t.matmul[static_cast<int>(DType::q8_0)] = matmul_q8<Products>;
#if !defined(LORA_EDGE_EMULATE_VNNI)
  t.int8_peak = int8_peak;
#endif
}

}  // namespace lora_edge::avx512_vnni
