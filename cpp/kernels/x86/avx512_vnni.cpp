// Matmul of weights in blocks with the byte dot products of AVX-512 VNNI (Ice Lake, Zen 4 and later).
//
// vpdpbusd adds four products of unsigned by signed bytes to each 32-bit sum: signed weights enter as w + 128. That is
// too large by 128 times the sum of x's block, with which each sum begins.
#if !defined(LORA_EDGE_EMULATE_VNNI) && !(defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512BW__))
#error "built with AVX-512 F, BW, VL and VNNI only"
#endif
#include "kernels/peak.h"
#include "kernels/x86/gradient_span.h"
#include "kernels/x86/q8_panel.h"

namespace lora_edge::avx512_vnni {
namespace {

using namespace lora_edge::avx2;  // NOLINT: the helpers are this file's own copy

inline __m512i load16(const void* p) { return _mm512_loadu_si512(p); }

template <class F>
struct DotPanel {
  using Block = UnsignedBlock<F>;

  // Two panels share the four bytes of x that are broadcast from memory for each step: one would need a load for each
  // dot product, and some CPUs load 64 bytes only once in a cycle. Registers of 32: 12 float sums, 12 integer sums,
  // the weights of a step, x, scales. A dot product takes 4 to 5 cycles and one can begin in each: 12 independent sums
  // hide that. Halves need twice the integer sums, so they have one panel, and 8 tokens.
  static constexpr int kPanels = F::kHalves ? 1 : 2, kTokens = F::kHalves ? 8 : 6;
  template <int n>
  using Integers = __m512i[kPanels][n];

  // Steps [first, last) of block b, added to sum.
  template <int n>
  static void add_steps(const Tile<Block>& t, int b, int first, int last, Integers<n>& sum) {
#pragma GCC unroll 8
    for (int e = first; e < last; ++e) {
      __m512i w[kPanels];
      for (int p = 0; p < kPanels; ++p) w[p] = load16(t.panel[b * kPanels + p].w[e]);
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) {
        const __m512i x = _mm512_set1_epi32(load_i32(t.x(i, b) + e * 4));
        for (int p = 0; p < kPanels; ++p) sum[p][i] = _mm512_dpbusd_epi32(sum[p][i], w[p], x);
      }
    }
  }

  template <int n>
  static void tile(const Tile<Block>& t) {
    __mmask16 lanes[kPanels];
    for (int p = 0; p < kPanels; ++p) {
      const int count = t.count - p * kPanelRows;
      lanes[p] = static_cast<__mmask16>(count >= kPanelRows ? 0xffffu : count > 0 ? (1u << count) - 1 : 0u);
    }
    const auto y = [&](int p, int i) { return t.y + static_cast<size_t>(i) * t.ldy + p * kPanelRows; };
    __m512 acc[kPanels][n];
    for (int p = 0; p < kPanels; ++p)
      for (int i = 0; i < n; ++i) acc[p][i] = t.first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes[p], y(p, i));
    for (int b = 0; b < t.blocks; ++b) {
      t.ahead.prefetch(b);
      const Block* block = t.panel + b * kPanels;
      const auto sums = [&](int i) { return _mm512_set1_epi32(load_i32(t.sums_at(i, b))); };
      const auto times = [&](int i, short by) { return _mm512_madd_epi16(sums(i), _mm512_set1_epi16(by)); };
      Integers<n> dot;
      if constexpr (F::kHalves) {
        Integers<n> half[2];
        for (int h = 0; h < 2; ++h) {
          for (int i = 0; i < n; ++i) half[h][0][i] = _mm512_setzero_si512();
          add_steps<n>(t, b, 4 * h, 4 * h + 4, half[h]);
        }
        const __m512i scale[2] = {_mm512_srai_epi32(load16(block->scale[0]), 16),
                                  _mm512_srai_epi32(load16(block->scale[1]), 16)};
        for (int i = 0; i < n; ++i) {
          dot[0][i] = _mm512_add_epi32(_mm512_mullo_epi32(half[0][0][i], scale[0]),
                                       _mm512_mullo_epi32(half[1][0][i], scale[1]));
          dot[0][i] = _mm512_add_epi32(dot[0][i], _mm512_madd_epi16(sums(i), load16(block->shift)));
        }
      } else {
        for (int i = 0; i < n; ++i) {
          const __m512i begin = times(i, F::kSigned ? -128 : -F::kOffset);
          for (int p = 0; p < kPanels; ++p) dot[p][i] = begin;
        }
        add_steps<n>(t, b, 0, kBlock / 4, dot);
      }
      __m512 dw[kPanels];
      for (int p = 0; p < kPanels; ++p) dw[p] = _mm512_loadu_ps(block[p].d);
      for (int i = 0; i < n; ++i) {
        const __m512 dx = _mm512_set1_ps(t.dx(i, b));
        for (int p = 0; p < kPanels; ++p) {
          acc[p][i] = _mm512_fmadd_ps(_mm512_mul_ps(dw[p], dx), _mm512_cvtepi32_ps(dot[p][i]), acc[p][i]);
          const auto add_min = [&](const float* min, __m512i sum) {
            acc[p][i] = _mm512_fmadd_ps(_mm512_loadu_ps(min), _mm512_mul_ps(dx, _mm512_cvtepi32_ps(sum)), acc[p][i]);
          };
          if constexpr (F::kMins == 1) add_min(block[p].min[0], times(i, 1));
          if constexpr (F::kMins == 2) {
            add_min(block[p].min[0], _mm512_srai_epi32(_mm512_slli_epi32(sums(i), 16), 16));
            add_min(block[p].min[1], _mm512_srai_epi32(sums(i), 16));
          }
        }
      }
    }
    for (int p = 0; p < kPanels; ++p)
      for (int i = 0; i < n; ++i) _mm512_mask_storeu_ps(y(p, i), lanes[p], acc[p][i]);
  }
};

struct Products {
  static constexpr bool kFlipped = true;
  static __m256i few(__m256i w, __m256i x) { return few_unsigned(flip(w), x); }
  static __m256i few_unsigned(__m256i w, __m256i x) { return _mm256_dpbusd_epi32(_mm256_setzero_si256(), w, x); }
  static constexpr bool kWords = false;
  template <class F>
  using Panel = DotPanel<F>;
};

// Registers of 32: 12 rows x 2 of sums, 2 of weights, a pair of dY.
struct Words {
  using Sums = __m512i;
  static constexpr int kLanes = 16, kRows = 12;
  static Sums zero() { return _mm512_setzero_si512(); }
  static __m512i load(const void* p) { return load16(p); }
  static __m512i broadcast(const void* p) { return _mm512_set1_epi32(load_i32(p)); }
  static Sums add(Sums sum, __m512i w, __m512i pair) { return _mm512_dpwssd_epi32(sum, w, pair); }
  static void finish(Sums sum, float scale, float* dx) {
    _mm512_storeu_ps(dx, _mm512_fmadd_ps(_mm512_set1_ps(scale), _mm512_cvtepi32_ps(sum), _mm512_loadu_ps(dx)));
  }
};

}  // namespace

void install(Table& t) {
  t.name = "avx512_vnni";
  install_matmul<Products>(t);
  install_gradient<Words>(t);
#if !defined(LORA_EDGE_EMULATE_VNNI)
  t.int8_peak = int8_peak;
#endif
}

}  // namespace lora_edge::avx512_vnni
