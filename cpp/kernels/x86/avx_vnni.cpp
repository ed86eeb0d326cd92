// Matmul of weights in blocks with the byte dot products of AVX-VNNI (Alder Lake, Sierra Forest and later, which lack
// AVX-512).
//
// vpdpbusd adds four products of unsigned by signed bytes to each 32-bit sum: signed weights enter as w + 128. That is
// too large by 128 times the sum of x's block.
#if !defined(LORA_EDGE_EMULATE_VNNI) && !defined(__AVXVNNI__)
#error "built with -mavxvnni only"
#endif
#include "kernels/peak.h"
#include "kernels/x86/gradient_span.h"
#include "kernels/x86/q8_panel.h"

namespace lora_edge::avx_vnni {
namespace {

using namespace lora_edge::avx2;  // NOLINT: the helpers are this file's own copy

// Sums begin with what the offset of a format's weights is to take off: 128 for signed ones, which enter flipped.
template <class F>
struct DotPanel {
  using Block = UnsignedBlock<F>;

  // Registers: 6 tokens x 2 of sums, 2 of weights, x. A dot product takes 5 cycles and two can begin in each: 10
  // independent sums would do. The float sums are touched once per block and may live on the stack.
  static constexpr int kPanels = 1, kTokens = 6;
  template <int n>
  static void dots(const Tile<Block>& t, int b, __m256i (*dot)[kHalfRegisters]) {
    const Block& block = t.panel[b];
    constexpr int kParts = F::kHalves ? 2 : 1, kSteps = kBlock / 4 / kParts;
    for (int part = 0; part < kParts; ++part) {
      __m256i sum[n][kHalfRegisters];
      for (int i = 0; i < n; ++i)
        for (int v = 0; v < kHalfRegisters; ++v)
          sum[i][v] = F::kHalves ? _mm256_setzero_si256() : times_sum(t.sums(i, b), F::kSigned ? -128 : -F::kOffset);
#pragma GCC unroll 1
      for (int e = part * kSteps; e < (part + 1) * kSteps; ++e) {
        const __m256i w[] = {load_bytes(block.w[e][0]), load_bytes(block.w[e][kLanes])};
#pragma GCC unroll 8
        for (int i = 0; i < n; ++i) {
          const __m256i x = _mm256_set1_epi32(load_i32(t.x(i, b) + e * 4));
          for (int v = 0; v < kHalfRegisters; ++v) {
            sum[i][v] = _mm256_dpbusd_avx_epi32(sum[i][v], w[v], x);
            asm("" : "+x"(sum[i][v]));  // else GCC regroups the sums and spills them
          }
        }
      }
      for (int i = 0; i < n; ++i)
        for (int v = 0; v < kHalfRegisters; ++v) {
          if constexpr (F::kHalves) {
            const __m256i scale = _mm256_srai_epi32(load_bytes(block.scale[part][v * kLanes]), 16);
            const __m256i scaled = _mm256_mullo_epi32(sum[i][v], scale);
            const __m256i begin = _mm256_madd_epi16(t.sums(i, b), load_bytes(block.shift[v * kLanes]));
            dot[i][v] = _mm256_add_epi32(part == 0 ? begin : dot[i][v], scaled);
          } else {
            dot[i][v] = sum[i][v];
          }
        }
    }
  }
  template <int n>
  static void tile(const Tile<Block>& t) {
    tile8<DotPanel, F, n>(t);
  }
};

struct Products {
  static constexpr bool kFlipped = true;
  static __m256i few(__m256i w, __m256i x) { return few_unsigned(flip(w), x); }
  static __m256i few_unsigned(__m256i w, __m256i x) { return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), w, x); }
  static constexpr bool kWords = false;
  static constexpr int kSome = 0;
  template <class F>
  using Panel = DotPanel<F>;
};

// Registers: 6 rows x 2 of sums, 2 of weights, a pair of dY.
struct Words : Words256 {
  static Sums add(Sums sum, __m256i w, __m256i pair) { return _mm256_dpwssd_avx_epi32(sum, w, pair); }
};

}  // namespace

void install(Table& t) {
  t.name = "avx_vnni";
  install_matmul<Products>(t);
  install_gradient<Words>(t);
#if !defined(LORA_EDGE_EMULATE_VNNI)
  t.int8_peak = int8_peak;
#endif
}

}  // namespace lora_edge::avx_vnni
