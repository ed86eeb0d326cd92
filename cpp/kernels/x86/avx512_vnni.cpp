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
inline __m512i join(__m256i low, __m256i high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); }
inline __m512 join(__m256 low, __m256 high) {
  return _mm512_castsi512_ps(join(_mm256_castps_si256(low), _mm256_castps_si256(high)));
}
inline __mmask16 first_lanes(int count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffffu : count > 0 ? (1u << count) - 1 : 0u);
}

// Sums of x's half blocks, as a pair in every lane, and what they make.
inline __m512i load_sums16(const int16_t* xs) { return _mm512_set1_epi32(load_i32(xs)); }
inline __m512i times_sum(__m512i sums, short by) { return _mm512_madd_epi16(sums, _mm512_set1_epi16(by)); }
// What a block's products begin with where they are too large.
template <class F>
inline __m512i begin_block(__m512i sums) {
  return times_sum(sums, F::kSigned ? -128 : -F::kOffset);
}

// sum plus the products of w and the four bytes at x. GCC takes two instructions for what is one.
inline void add_broadcast(__m512i& sum, __m512i w, const int8_t* x) {
#if defined(LORA_EDGE_EMULATE_VNNI)
  sum = _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(load_i32(x)));
#else
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*reinterpret_cast<const int8_t(*)[4]>(x)));
#endif
}

// acc plus a block's products, and minima: kernels.h has the order. min(from, h): the rows' minima.
template <class F, class From, class Min>
inline __m512 add_block(__m512 acc, __m512i dot, __m512 d, __m512 dx, __m512i sums, const From& from, Min min) {
  acc = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(dot), acc);
  const auto add_min = [&](__m512 m, __m512i sum) {
    acc = _mm512_fmadd_ps(m, _mm512_mul_ps(dx, _mm512_cvtepi32_ps(sum)), acc);
  };
  if constexpr (F::kMins == 1) add_min(min(from, 0), times_sum(sums, 1));
  if constexpr (F::kMins == 2) {
    add_min(min(from, 0), _mm512_srai_epi32(_mm512_slli_epi32(sums, 16), 16));
    add_min(min(from, 1), _mm512_srai_epi32(sums, 16));
  }
  return acc;
}

// Products of both halves with their scales, each a pair of 16 bits of which the upper counts. shift: as HalfParts has.
inline __m512i add_halves(__m512i first, __m512i second, __m512i scale0, __m512i scale1, __m512i sums, __m512i shift) {
  const __m512i scaled = _mm512_add_epi32(_mm512_mullo_epi32(first, _mm512_srai_epi32(scale0, 16)),
                                          _mm512_mullo_epi32(second, _mm512_srai_epi32(scale1, 16)));
  return _mm512_add_epi32(scaled, _mm512_madd_epi16(sums, shift));
}

// ---- some tokens ----

// As a format's Scales (quant_formats.h), of 16 rows.
template <class F>
struct Scales16 {
  Scales16(const uint8_t* const* row, size_t at) : low(row, at), high(row + kLanes, at) {}
  __m512 d(int b) const { return join(low.d(b), high.d(b)); }
  __m512i pairs(int b) const { return join(low.pairs(b), high.pairs(b)); }
  __m512 min(int b, int h) const { return join(low.min(b, h), high.min(b, h)); }
  typename F::Scales low, high;
};

// 16 rows of a block of weights: lane r of v[e] holds weights 4e … 4e + 3 of row r.
template <class F>
inline void load_rows(const uint8_t* const* row, size_t at, int b, __m512i* v) {
  __m512i quad[8];
  for (int h = 0; h < 8; h += 4) {
    __m512i two[4];  // rows r and r + 4
    for (int r = 0; r < 4; ++r) {
      const uint8_t* const* first = row + 2 * h + r;
      two[r] = join(F::weights(first[0] + at, b), F::weights(first[4] + at, b));
      if constexpr (F::kSigned) two[r] = _mm512_xor_si512(two[r], _mm512_set1_epi8(-128));
    }
    for (int r = 0; r < 4; r += 2) {
      const __m512i a = r ? _mm512_unpackhi_epi32(two[0], two[1]) : _mm512_unpacklo_epi32(two[0], two[1]);
      const __m512i c = r ? _mm512_unpackhi_epi32(two[2], two[3]) : _mm512_unpacklo_epi32(two[2], two[3]);
      quad[h + r] = _mm512_unpacklo_epi64(a, c);
      quad[h + r + 1] = _mm512_unpackhi_epi64(a, c);
    }
  }
  for (int e = 0; e < 4; ++e) {
    v[e] = _mm512_shuffle_i32x4(quad[e], quad[e + 4], 0x88);
    v[e + 4] = _mm512_shuffle_i32x4(quad[e], quad[e + 4], 0xdd);
  }
}

// 16 rows times up to n tokens, weights transposed in registers. Registers of 32: n <= 12 float sums, the 8 of the
// weights, kSums integer sums that hide each other's latency, scales; four bytes of x come straight from memory. Those
// missing of n tokens repeat the last.
template <class F, int n>
void some_tile(const MatmulArgs& a, int j) {
  constexpr int kSums = 4, kParts = F::kHalves ? 2 : 1, kGroup = kSums / kParts, kSteps = kBlock / 4 / kParts;
  const int count = a.n1 - j < kPanelRows ? a.n1 - j : kPanelRows;
  const uint8_t* row[kPanelRows];
  row_pointers<kPanelRows>(a, j, count, row);
  const Upcoming<F, kPanelRows> upcoming(a, j);
  const size_t blocks = static_cast<size_t>(a.k / kBlock);
  size_t at_block[n];
  for (int i = 0; i < n; ++i) at_block[i] = static_cast<size_t>(i < a.m ? i : a.m - 1) * blocks;
  __m512 acc[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) acc[i] = _mm512_setzero_ps();
  for (size_t first = 0; first < blocks; first += F::kBlocks) {
    const size_t at = first / F::kBlocks * F::kBytes;
    const Scales16<F> scales(row, at);
#pragma GCC unroll 8  // shifts and masks become constants
    for (int s = 0; s < F::kBlocks; ++s) {
      const size_t b = first + static_cast<size_t>(s);
      upcoming.prefetch(static_cast<int>(b));
      __m512i w[kBlock / 4];
      load_rows<F>(row, at, s, w);
      const __m512 d = scales.d(s);
#pragma GCC unroll 8
      for (int g = 0; g < n; g += kGroup) {
        __m512i sum[kParts][kGroup];
        const int8_t* x[kGroup];
#pragma GCC unroll 4
        for (int i = 0; i < kGroup; ++i) {
          const size_t block = at_block[g + i] + b;
          x[i] = a.xq + block * kBlock;
#pragma GCC unroll 2
          for (int h = 0; h < kParts; ++h)
            sum[h][i] = F::kHalves ? _mm512_setzero_si512() : begin_block<F>(load_sums16(a.xs + 2 * block));
        }
#pragma GCC unroll 8
        for (int e = 0; e < kSteps; ++e)
#pragma GCC unroll 4
          for (int i = 0; i < kGroup; ++i)
#pragma GCC unroll 2
            for (int h = 0; h < kParts; ++h) add_broadcast(sum[h][i], w[h * kSteps + e], x[i] + (h * kSteps + e) * 4);
#pragma GCC unroll 4
        for (int i = 0; i < kGroup; ++i) {
          const size_t block = at_block[g + i] + b;
          const __m512i sums = load_sums16(a.xs + 2 * block);
          __m512i dot = sum[0][i];
          if constexpr (F::kHalves) {
            const __m512i pairs = scales.pairs(s);
            dot = add_halves(dot, sum[1][i], _mm512_slli_epi32(pairs, 16), pairs, sums,
                             _mm512_mullo_epi16(pairs, _mm512_set1_epi16(-F::kOffset)));
          }
          acc[g + i] = add_block<F>(acc[g + i], dot, d, _mm512_set1_ps(a.xd[block]), sums, scales,
                                    [&](const auto& from, int h) { return from.min(s, h); });
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i)
    if (i < a.m) _mm512_mask_storeu_ps(a.y + static_cast<size_t>(i) * a.ldy + j, first_lanes(count), acc[i]);
}

// In steps of 4 tokens: every step is one more copy of the code for each of 11 types.
template <class F, int n>
void some_tokens(const MatmulArgs& a) {
  if constexpr (n > 4)
    if (a.m <= n - 4) return some_tokens<F, n - 4>(a);
  for (int j = a.n0; j < a.n1; j += kPanelRows) some_tile<F, n>(a, j);
}

// ---- many tokens ----

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
    for (int p = 0; p < kPanels; ++p) lanes[p] = first_lanes(t.count - p * kPanelRows);
    const auto y = [&](int p, int i) { return t.y + static_cast<size_t>(i) * t.ldy + p * kPanelRows; };
    __m512 acc[kPanels][n];
    for (int p = 0; p < kPanels; ++p)
      for (int i = 0; i < n; ++i) acc[p][i] = t.first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes[p], y(p, i));
    for (int b = 0; b < t.blocks; ++b) {
      t.ahead.prefetch(b);
      const Block* block = t.panel + b * kPanels;
      const auto sums = [&](int i) { return load_sums16(t.sums_at(i, b)); };
      Integers<n> dot;
      if constexpr (F::kHalves) {
        Integers<n> half[2];
        for (int h = 0; h < 2; ++h) {
          for (int i = 0; i < n; ++i) half[h][0][i] = _mm512_setzero_si512();
          add_steps<n>(t, b, 4 * h, 4 * h + 4, half[h]);
        }
        for (int i = 0; i < n; ++i)
          dot[0][i] = add_halves(half[0][0][i], half[1][0][i], load16(block->scale[0]), load16(block->scale[1]),
                                 sums(i), load16(block->shift));
      } else {
        for (int i = 0; i < n; ++i) {
          const __m512i begin = begin_block<F>(sums(i));
          for (int p = 0; p < kPanels; ++p) dot[p][i] = begin;
        }
        add_steps<n>(t, b, 0, kBlock / 4, dot);
      }
      __m512 dw[kPanels];
      for (int p = 0; p < kPanels; ++p) dw[p] = _mm512_loadu_ps(block[p].d);
      for (int i = 0; i < n; ++i) {
        const __m512 dx = _mm512_set1_ps(t.dx(i, b));
        for (int p = 0; p < kPanels; ++p)
          acc[p][i] = add_block<F>(acc[p][i], dot[p][i], dw[p], dx, sums(i), block[p],
                                   [&](const auto& from, int h) { return _mm512_loadu_ps(from.min[h]); });
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
  static constexpr int kSome = 12;
  template <class F>
  static void some(const MatmulArgs& a) {
    some_tokens<F, kSome>(a);
  }
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
