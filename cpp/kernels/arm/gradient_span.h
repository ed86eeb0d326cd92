// Adds a span of rows of W to dX on NEON (kernels.h: GradientArgs), for formats F that are one scale per block and for
// tables that differ in how they multiply. Included, like neon_common.h, as each file's own copy.
//
// P::kRows, P::kColumns   of a tile
// P::kStep, P::kGroup     rows of W that a tile, and packing, take at a time
// P::Panel                a span's weights of 32 columns; pack(j, w): rows j to j + kGroup - 1, as signed bytes
// P::Rows                 kRows rows of dY times the scales; set(r, e, q, scales): elements e to e + kStep - 1 of row r
// P::tile<n>              dx[n][kColumns] = fma(scale[n], sums, dx)
#pragma once

#include <cmath>

#include "kernels/arm/quant_formats.h"

namespace lora_edge::neon {
namespace {

// x[n] -> q, zeros from n on; returns d: see kernels.h.
inline float quantize_q16(const float* x, int n, int16_t* q) {
  const auto load = [&](int e) { return load_some<DType::f32>(x + e, n - e < 0 ? 0 : n - e); };
  uint32x4_t most = vdupq_n_u32(0);
  for (int e = 0; e < n; e += 4) most = vmaxq_u32(most, vreinterpretq_u32_f32(vabsq_f32(load(e))));
  const float max = bits_to_f32(vmaxvq_u32(most));  // NaN and infinities are the largest integers
  const float d = !std::isfinite(max) ? std::nanf("") : max < kLeastQ16 ? 0.0f : max / kMostQ16;
  const float inverse = d > 0.0f ? 1.0f / d : 0.0f;
  int e = 0;
  if (d > 0.0f)
    for (; e < n; e += 8) {
      const auto words = [&](int i) { return vcvtnq_s32_f32(vmulq_n_f32(load(i), inverse)); };
      vst1q_s16(q + e, vmovn_high_s32(vmovn_s32(words(e)), words(e + 4)));
    }
  for (; e < kGradientSpan; e += 8) vst1q_s16(q + e, vdupq_n_s16(0));
  return d;
}

// 32 weights, as signed bytes.
template <class F>
inline void signed_weights(const uint8_t* p, int8x16_t* w) {
  uint8x16_t v[2];
  F::weights(p, v);
  each<2>([&](auto h) { w[h] = vsubq_s8(vreinterpretq_s8_u8(v[h]), vdupq_n_s8(F::kOffset)); });
}

struct Q8_0 : FormatOf<1, sizeof(BlockQ8_0), true, 0, false, 0> {
  static void weights(const uint8_t* p, uint8x16_t* w) {
    each<2>([&](auto h) { w[h] = load_bytes(p + offsetof(BlockQ8_0, qs) + 16 * h); });
  }
};

template <class P, int n = P::kRows>
void span_tiles(int rows, const typename P::Panel& panel, const typename P::Rows& dy, int depth, const float* scale,
                float* dx, size_t lddx) {
  if constexpr (n > 1)
    if (rows < n) return span_tiles<P, n - 1>(rows, panel, dy, depth, scale, dx, lddx);
  for (int c = 0; c < kBlock; c += P::kColumns) P::template tile<n>(panel, c, dy, depth, scale, dx + c, lddx);
}

template <class P, class F>
void gradient(const GradientArgs& a) {
  typename P::Panel panel;
  alignas(16) int16_t scales[kGradientSpan];
  const int depth = (a.n + P::kStep - 1) / P::kStep * P::kStep;
  for (int b = 0; b < a.k / kBlock; ++b) {
    const uint8_t* first = static_cast<const uint8_t*>(a.w) + static_cast<size_t>(b) * F::kBytes;
    const auto row = [&](int j) { return first + static_cast<size_t>(j < a.n ? j : a.n - 1) * a.w_stride; };
    for (int j = 0; j < depth; j += P::kGroup) {
      int8x16_t w[P::kGroup][2];
      each<P::kGroup>([&](auto r) { signed_weights<F>(row(j + r), w[r]); });
      panel.pack(j, w);
    }
    float d[kGradientSpan];
    for (int j = 0; j < a.n; j += 4) {
      const uint8_t* const rows[4] = {row(j), row(j + 1), row(j + 2), row(j + 3)};
      vst1q_f32(d + j, load_halves(rows, 0));
    }
    const float of_scales = quantize_q16(d, a.n, scales) * 0x1p15f;
    for (int i = 0; i < a.m; i += P::kRows) {
      const int rows = a.m - i < P::kRows ? a.m - i : P::kRows;
      typename P::Rows dy;
      float scale[P::kRows];
      for (int r = 0; r < rows; ++r) {
        const int16_t* q = a.q + static_cast<size_t>(i + r) * kGradientSpan;
        for (int e = 0; e < depth; e += P::kStep) dy.set(r, e, q + e, scales + e);
        scale[r] = a.d[i + r] * of_scales;
      }
      span_tiles<P>(rows, panel, dy, depth, scale, a.dx + static_cast<size_t>(i) * a.lddx + b * kBlock, a.lddx);
    }
  }
}

// dx[n][4 C] = fma(scale, sums, dx)
template <int n, int C>
inline void finish(const int32x4_t (*sum)[C], const float* scale, float* dx, size_t lddx) {
  each<n>([&](auto i) {
    each<C>([&](auto v) {
      float* to = dx + i * lddx + 4 * v;
      vst1q_f32(to, vfmaq_n_f32(vld1q_f32(to), vcvtq_f32_s32(sum[i][v]), scale[i]));
    });
  });
}

template <class P>
void install_gradient(Table& t) {
  t.gradient[static_cast<int>(DType::q8_0)] = gradient<P, Q8_0>;
  t.gradient[static_cast<int>(DType::q4_0)] = gradient<P, Q4_0>;
  t.gradient[static_cast<int>(DType::q5_0)] = gradient<P, Q5_0>;
  t.gradient[static_cast<int>(DType::iq4_nl)] = gradient<P, Iq4Nl>;
}

}  // namespace
}  // namespace lora_edge::neon
