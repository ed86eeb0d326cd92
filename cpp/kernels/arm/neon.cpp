// Kernels for the Advanced SIMD of every aarch64 CPU: float weights here, Q8_0 in neon_q8.cpp, smaller blocks in
// neon_quants.cpp, rows of activations in neon_rows.cpp.
#include "base/prefetch.h"
#include "kernels/arm/neon_common.h"
#include "kernels/peak.h"

namespace lora_edge::neon {

void install_q8(Table&);
void install_quants(Table&);
void install_gradient(Table&);
void install_rows(Table&);

namespace {

// ---- float weights ----

// The last `rest` < 16 elements and the sum. By value and out of line, so that a tile's accumulators stay in registers.
template <DType type>
__attribute__((noinline)) float dot_rest(float32x4_t a0, float32x4_t a1, float32x4_t a2, float32x4_t a3,
                                         const uint8_t* w, const float* x, int rest) {
  float32x4_t acc[4] = {a0, a1, a2, a3};
  for (int quad = 0; 4 * quad < rest; ++quad) {
    const int at = 4 * quad, live = rest - at;
    const float32x4_t sum =
        vfmaq_f32(acc[quad], load_some<type>(w + at * kSize<type>, live), load_some<DType::f32>(x + at, live));
    acc[quad] = vbslq_f32(lanes_below(live), sum, acc[quad]);  // the others keep even a zero's sign
  }
  return reduce16(acc);
}

// R outputs × C rows: y[c][r] = dot16(w[r], x[c]). 4·R·C accumulators, and what is in hand of w and x. 4 × 1 for one
// row takes 16 elements at a time in 24 of the 32 registers; 2 × 3 for many takes 8 in 32, and does 12 multiply-adds
// per 5 loads.
template <DType type, int R, int C>
__attribute__((flatten)) void dot_tile(const MatmulArgs& a, int i, int j) {
  constexpr int kQuads = C == 1 ? 4 : 2;
  const uint8_t *w[R], *x[C];
  float32x4_t acc[R][C][4];
  each<R>([&](auto r) { w[r] = static_cast<const uint8_t*>(a.w) + static_cast<size_t>(j + r) * a.w_stride; });
  each<C>([&](auto c) { x[c] = reinterpret_cast<const uint8_t*>(a.x + static_cast<size_t>(i + c) * a.ldx); });
  each<R * C * 4>([&](auto n) { acc[n / (4 * C)][n / 4 % C][n % 4] = vdupq_n_f32(0.0f); });
  for (int blocks = a.k / 16; blocks > 0; --blocks) {
    each<4 / kQuads>([&](auto part) {
      float32x4_t xv[C][kQuads];
      each<C>([&](auto c) { take<DType::f32, kQuads>(x[c], xv[c]); });
      each<R>([&](auto r) {
        float32x4_t wv[kQuads];
        take<type, kQuads>(w[r], wv);
        each<kQuads>([&](auto v) {
          each<C>([&](auto c) {
            float32x4_t& to = acc[r][c][part * kQuads + v];
            to = vfmaq_f32(to, wv[v], xv[c][v]);
          });
        });
      });
    });
  }
  each<R>([&](auto r) {
    each<C>([&](auto c) {
      const float32x4_t* s = acc[r][c];
      a.y[static_cast<size_t>(i + c) * a.ldy + static_cast<size_t>(j + r)] =
          dot_rest<type>(s[0], s[1], s[2], s[3], w[r], reinterpret_cast<const float*>(x[c]), a.k % 16);
    });
  });
}

template <DType type, int R>
void dot_rows(const MatmulArgs& a, int first, int last, int j) {
  int i = first;
  for (; i + 3 <= last; i += 3) dot_tile<type, R, 3>(a, i, j);
  if (last - i == 2) dot_tile<type, R, 2>(a, i, j);
  if (last - i == 1) dot_tile<type, R, 1>(a, i, j);
}

template <DType type>
void matmul(const MatmulArgs& a) {
  if (a.m == 1) {
    int j = a.n0;
    for (; j + 4 <= a.n1; j += 4) dot_tile<type, 4, 1>(a, 0, j);
    for (; j < a.n1; ++j) dot_tile<type, 1, 1>(a, 0, j);
    return;
  }
  const int panel = panel_rows(a.k * sizeof(float), 3);
  for (int first = 0; first < a.m; first += panel) {
    const int last = first + panel < a.m ? first + panel : a.m;
    int j = a.n0;
    for (; j + 2 <= a.n1; j += 2) dot_rows<type, 2>(a, first, last, j);
    if (j < a.n1) dot_rows<type, 1>(a, first, last, j);
  }
}

// ---- low-rank update ----

// V·4 columns × C rows of y stay in registers over all of r. 8 × 1 hides a multiply-add's latency, 4 × 4 shares loads.
// u is read four ranks at a time.
template <DType type, int V, int C>
__attribute__((flatten)) void lowrank_tile(const LowRankArgs& a, int i, int j) {
  const uint8_t* bt = static_cast<const uint8_t*>(a.bt) + static_cast<size_t>(j) * kSize<type>;
  const size_t stride = static_cast<size_t>(a.n) * kSize<type> - 4 * V * kSize<type>;
  const float* u[C];
  float* y[C];
  float32x4_t acc[C][V];
  each<C>([&](auto c) {
    u[c] = a.u + static_cast<size_t>(i + c) * a.ldu;
    y[c] = a.y + static_cast<size_t>(i + c) * a.ldy + j;
    load_floats<V>(y[c], acc[c]);
  });
  int t = a.r;
  for (; t >= 4; t -= 4) {
    float32x4_t by[C];
    each<C>([&](auto c) { by[c] = vld1q_f32(u[c]), u[c] += 4; });
    each<4>([&](auto lane) {
      float32x4_t b[V];
      take<type, V>(bt, b);
      bt += stride;
      each<C>([&](auto c) { each<V>([&](auto v) { acc[c][v] = vfmaq_laneq_f32(acc[c][v], b[v], by[c], lane); }); });
    });
  }
  for (; t > 0; --t) {
    float32x4_t b[V];
    take<type, V>(bt, b);
    bt += stride;
    each<C>([&](auto c) {
      const float by = *u[c]++;
      each<V>([&](auto v) { acc[c][v] = vfmaq_n_f32(acc[c][v], b[v], by); });
    });
  }
  each<C>([&](auto c) { each<V>([&](auto v) { vst1q_f32(y[c] + 4 * v, acc[c][v]); }); });
}

// The last few columns: `live`, at most 4, of one row.
template <DType type>
void lowrank_edge(const LowRankArgs& a, int i, int j, int live) {
  const uint8_t* bt = static_cast<const uint8_t*>(a.bt) + static_cast<size_t>(j) * kSize<type>;
  const float* u = a.u + static_cast<size_t>(i) * a.ldu;
  float* y = a.y + static_cast<size_t>(i) * a.ldy + j;
  float32x4_t acc = load_some<DType::f32>(y, live);
  for (int t = 0; t < a.r; ++t, bt += static_cast<size_t>(a.n) * kSize<type>)
    acc = vfmaq_n_f32(acc, load_some<type>(bt, live), u[t]);
  store_some(y, acc, live);
}

template <DType type, int C>
void lowrank_rows(const LowRankArgs& a, int i) {
  constexpr int V = C == 1 ? 8 : 4;
  int j = a.n0;
  for (; j + 4 * V <= a.n1; j += 4 * V) {
    if (a.next && i == 0) {  // a tile's share
      const size_t begin = static_cast<size_t>(j - a.n0) * static_cast<size_t>(a.r) * kSize<type>;
      prefetch(static_cast<const uint8_t*>(a.next) + begin, 4 * V * static_cast<size_t>(a.r) * kSize<type>);
    }
    lowrank_tile<type, V, C>(a, i, j);
  }
  for (; j + 8 <= a.n1; j += 8) lowrank_tile<type, 2, C>(a, i, j);
  for (; j < a.n1; j += 4)
    for (int c = 0; c < C; ++c) lowrank_edge<type>(a, i + c, j, a.n1 - j);
}

template <DType type>
void lowrank(const LowRankArgs& a) {
  int i = 0;
  for (; i + 4 <= a.m; i += 4) lowrank_rows<type, 4>(a, i);
  if (a.m - i == 3) lowrank_rows<type, 3>(a, i);
  if (a.m - i == 2) lowrank_rows<type, 2>(a, i);
  if (a.m - i == 1) lowrank_rows<type, 1>(a, i);
}

// ---- conversions ----

template <DType type>
void dequantize(const void* w, float* out, int k) {
  const uint8_t* from = static_cast<const uint8_t*>(w);
  int i = 0;
  for (; i + 4 <= k; i += 4) vst1q_f32(out + i, load4<type>(from + i * kSize<type>));
  if (i < k) store_some(out + i, load_some<type>(from + i * kSize<type>, k - i), k - i);
}

void f32_to_f16(const float* x, uint16_t* out, int n) {
  int i = 0;
  for (; i + 4 <= n; i += 4) vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
  uint16_t four[4];
  vst1_u16(four, vreinterpret_u16_f16(vcvt_f16_f32(load_some<DType::f32>(x + i, n - i))));
  for (int l = 0; i + l < n; ++l) out[i + l] = four[l];
}

// In squares of 4 x 4.
template <DType type>
void transpose(const void* in, size_t in_stride, int n, int r, float* out) {
  const uint8_t* rows = static_cast<const uint8_t*>(in);
  const size_t ld = static_cast<size_t>(n);
  for (int j = 0; j < n; j += 4)
    for (int t = 0; t < r; t += 4) {
      float32x4_t v[4];
      for (int i = 0; i < 4; ++i) {
        const size_t row = static_cast<size_t>(j + i < n ? j + i : n - 1);
        v[i] = load_some<type>(rows + row * in_stride + static_cast<size_t>(t) * kSize<type>, r - t);
      }
      const float32x4_t ab0 = vtrn1q_f32(v[0], v[1]), ab1 = vtrn2q_f32(v[0], v[1]);
      const float32x4_t cd0 = vtrn1q_f32(v[2], v[3]), cd1 = vtrn2q_f32(v[2], v[3]);
      const float32x4_t column[4] = {
          vcombine_f32(vget_low_f32(ab0), vget_low_f32(cd0)), vcombine_f32(vget_low_f32(ab1), vget_low_f32(cd1)),
          vcombine_f32(vget_high_f32(ab0), vget_high_f32(cd0)), vcombine_f32(vget_high_f32(ab1), vget_high_f32(cd1))};
      for (int i = 0; i < 4 && t + i < r; ++i) store_some(out + static_cast<size_t>(t + i) * ld + j, column[i], n - j);
    }
}

template <DType type>
void install_type(Table& t) {
  t.matmul[static_cast<int>(type)] = matmul<type>;
  t.dequantize[static_cast<int>(type)] = dequantize<type>;
  t.lowrank[static_cast<int>(type)] = lowrank<type>;
  t.transpose[static_cast<int>(type)] = transpose<type>;
}

}  // namespace

void install(Table& t) {
  t.name = "neon";
  install_type<DType::f32>(t);
  install_type<DType::f16>(t);
  install_type<DType::bf16>(t);
  install_q8(t);
  install_quants(t);
  install_gradient(t);
  install_rows(t);
  t.f32_to_f16 = f32_to_f16;
  t.int8_peak = int8_peak;
}

}  // namespace lora_edge::neon
