// Adds a span of rows of W to dX on x86 (kernels.h: GradientArgs), for formats F that are one scale per block and for
// tables that differ in how they multiply 16-bit numbers. Included, like avx2_common.h, as each file's own copy.
//
// Block by block of columns, the span's weights become pairs of 16 bits, rows 2p and 2p + 1 of one column beside each
// other. Of dY, multiplied by the rows' scales, a tile's pairs are broadcast.
//
// P::Sums, P::kLanes          32-bit sums; P::zero() of them
// P::kRows                    of a tile
// P::load(p), broadcast(p)    a register of weights; a pair of dY in each lane
// P::add(sums, w, pair)       sums + w[0] · pair[0] + w[1] · pair[1] in each lane
// P::finish(sums, scale, dx)  dx = fma(scale, float(sum), dx)
#pragma once

#include <cmath>

#include "kernels/x86/quant_formats.h"

namespace lora_edge::avx2 {
namespace {

constexpr int kWords = 16;  // 16-bit numbers of a register

struct SpanPanel {
  alignas(64) int16_t w[kGradientSpan / 2][kBlock][2];
  alignas(64) int16_t scale[kGradientSpan];
  float d;
};

// x[n] -> q, n <= kGradientSpan, then zeros; returns d. See ref.cpp.
inline float quantize_q16(const float* x, int n, int16_t* q) {
  const auto load = [&](int e) {
    return n - e >= kLanes ? _mm256_loadu_ps(x + e) : load_part<DType::f32>(x + e, n - e);
  };
  const int registers = (n + kLanes - 1) / kLanes;
  __m256i most = _mm256_setzero_si256();
  for (int r = 0; r < registers; ++r)
    most =
        _mm256_max_epi32(most, _mm256_and_si256(_mm256_castps_si256(load(r * kLanes)), _mm256_set1_epi32(0x7fffffff)));
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  const float max = bits_to_f32(static_cast<uint32_t>(_mm_cvtsi128_si32(four)));
  const float d = !std::isfinite(max) ? std::nanf("") : max < kLeastQ16 ? 0.0f : max / kMostQ16;
  if (!(d > 0.0f)) {
    std::memset(q, 0, kGradientSpan * sizeof(int16_t));
    return d;
  }
  const __m256 inverse = _mm256_set1_ps(1.0f / d);
  const auto words = [&](int e) { return _mm256_cvtps_epi32(_mm256_mul_ps(load(e), inverse)); };
  int e = 0;
  for (; e < n; e += kWords) {
    const __m256i second = e + kLanes < n ? words(e + kLanes) : _mm256_setzero_si256();
    const __m256i both = _mm256_packs_epi32(words(e), second);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + e), _mm256_permute4x64_epi64(both, 0xd8));
  }
  for (; e < kGradientSpan; e += kWords) _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + e), _mm256_setzero_si256());
  return d;
}

template <class F>
void fill_panel(const GradientArgs& a, int block, SpanPanel& panel) {
  const uint8_t* first = static_cast<const uint8_t*>(a.w) + static_cast<size_t>(block) * F::kBytes;
  const auto row = [&](int r) { return first + static_cast<size_t>(r < a.n ? r : a.n - 1) * a.w_stride; };
  const auto weights = [&](int r) {
    return _mm256_sub_epi8(F::weights(row(r), 0), _mm256_set1_epi8(static_cast<char>(F::kOffset)));
  };
  for (int p = 0; p < (a.n + 1) / 2; ++p) {
    const __m256i even = weights(2 * p), odd = weights(2 * p + 1);
    const __m256i low = _mm256_unpacklo_epi8(even, odd), high = _mm256_unpackhi_epi8(even, odd);
    const auto store = [&](int c, __m128i bytes) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(panel.w[p][c]), _mm256_cvtepi8_epi16(bytes));
    };
    store(0, _mm256_castsi256_si128(low));
    store(8, _mm256_castsi256_si128(high));
    store(16, _mm256_extracti128_si256(low, 1));
    store(24, _mm256_extracti128_si256(high, 1));
  }
  alignas(32) float d[kGradientSpan];
  for (int r = 0; r < a.n; r += kLanes) {
    const uint8_t* rows[kLanes];
    for (int l = 0; l < kLanes; ++l) rows[l] = row(r + l);
    _mm256_store_ps(d + r, load_scales(rows, 0));
  }
  panel.d = quantize_q16(d, a.n, panel.scale) * 32768.0f;
}

// q[n] times two registers of the panel's columns.
template <class P, int n>
void span_tile(const SpanPanel& panel, int pairs, int column, const int16_t (*q)[kGradientSpan], const float* scale,
               float* dx, size_t lddx) {
  typename P::Sums sum[n][2];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) sum[i][0] = sum[i][1] = P::zero();
#pragma GCC unroll 1
  for (int p = 0; p < pairs; ++p) {
    const auto w0 = P::load(panel.w[p][column]), w1 = P::load(panel.w[p][column + P::kLanes]);
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) {
      const auto pair = P::broadcast(q[i] + 2 * p);
      sum[i][0] = P::add(sum[i][0], w0, pair);
      sum[i][1] = P::add(sum[i][1], w1, pair);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    float* to = dx + static_cast<size_t>(i) * lddx + column;
    P::finish(sum[i][0], scale[i], to);
    P::finish(sum[i][1], scale[i], to + P::kLanes);
  }
}

template <class P, int n = P::kRows>
void span_tiles(int rows, const SpanPanel& panel, int pairs, const int16_t (*q)[kGradientSpan], const float* scale,
                float* dx, size_t lddx) {
  if constexpr (n > 1)
    if (rows < n) return span_tiles<P, n - 1>(rows, panel, pairs, q, scale, dx, lddx);
  for (int c = 0; c < kBlock; c += 2 * P::kLanes) span_tile<P, n>(panel, pairs, c, q, scale, dx, lddx);
}

template <class P, class F>
void gradient(const GradientArgs& a) {
  SpanPanel panel;
  const int pairs = (a.n + 1) / 2;
  for (int b = 0; b < a.k / kBlock; ++b) {
    fill_panel<F>(a, b, panel);
    for (int i = 0; i < a.m; i += P::kRows) {
      const int rows = a.m - i < P::kRows ? a.m - i : P::kRows;
      alignas(64) int16_t q[P::kRows][kGradientSpan];
      float scale[P::kRows];
      for (int r = 0; r < rows; ++r) {
        const int16_t* from = a.q + static_cast<size_t>(i + r) * kGradientSpan;
        for (int e = 0; e < 2 * pairs; e += kWords)
          _mm256_store_si256(reinterpret_cast<__m256i*>(q[r] + e),
                             _mm256_mulhrs_epi16(load_bytes(from + e), load_bytes(panel.scale + e)));
        scale[r] = a.d[i + r] * panel.d;
      }
      span_tiles<P>(rows, panel, pairs, q, scale, a.dx + static_cast<size_t>(i) * a.lddx + b * kBlock, a.lddx);
    }
  }
}

// What policies of 8 lanes have in common.
struct Words256 {
  using Sums = __m256i;
  static constexpr int kRows = 6;
  static constexpr int kLanes = avx2::kLanes;
  static Sums zero() { return _mm256_setzero_si256(); }
  static __m256i load(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
  static __m256i broadcast(const void* p) { return _mm256_set1_epi32(load_i32(p)); }
  static void finish(Sums sum, float scale, float* dx) {
    _mm256_storeu_ps(dx, _mm256_fmadd_ps(_mm256_set1_ps(scale), _mm256_cvtepi32_ps(sum), _mm256_loadu_ps(dx)));
  }
};

template <class P>
void install_gradient(Table& t) {
  each_format([&](DType type, auto f) {
    using F = decltype(f);
    if constexpr (F::kBlocks == 1 && F::kMins == 0) t.gradient[static_cast<int>(type)] = gradient<P, F>;
  });
}

}  // namespace
}  // namespace lora_edge::avx2
