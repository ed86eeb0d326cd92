// Kernels for the Advanced SIMD of every aarch64 CPU: float weights, attention and row operations.
#include "kernels/arm/neon_common.h"
#include "kernels/peak.h"

namespace lora_edge::neon {

void install_q8(Table&);

namespace {

// dot16's lanes 0-3, 4-7, 8-11 and 12-15, summed in its order.
inline float reduce16(const float32x4_t* acc) {
  const float32x4_t four = vaddq_f32(vaddq_f32(acc[0], acc[2]), vaddq_f32(acc[1], acc[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(vpadd_f32(two, two), 0);
}

inline float32x4_t exp_poly(float32x4_t x) {
  const float32x4_t low = vdupq_n_f32(-87.0f), high = vdupq_n_f32(88.0f);
  x = vbslq_f32(vcgtq_f32(x, low), x, low);  // also NaN
  x = vbslq_f32(vcltq_f32(x, high), x, high);
  const float32x4_t n = vrndnq_f32(vmulq_n_f32(x, 1.44269504088896341f));
  float32x4_t r = vfmaq_n_f32(x, n, -0.693359375f);
  r = vfmaq_n_f32(r, n, 2.12194440e-4f);
  float32x4_t p = vdupq_n_f32(1.9875691500e-4f);
  p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3f), p, r);
  p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3f), p, r);
  p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2f), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1f), p, r);
  p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p, r);
  p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0f));
  const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
  return vmulq_f32(p, vreinterpretq_f32_s32(power));
}

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
template <DType type, int V, int C>
__attribute__((flatten)) void lowrank_tile(const LowRankArgs& a, int i, int j) {
  const uint8_t* bt = static_cast<const uint8_t*>(a.bt) + static_cast<size_t>(j) * kSize<type>;
  const size_t stride = static_cast<size_t>(a.n) * kSize<type> - 4 * V * kSize<type>;
  const float* u[C];
  float* y = a.y + static_cast<size_t>(i) * a.ldy + j;
  float32x4_t acc[C][V];
  each<C>([&](auto c) {
    u[c] = a.u + static_cast<size_t>(i + c) * a.ldu;
    each<V>([&](auto v) { acc[c][v] = vld1q_f32(y + c * a.ldy + 4 * v); });
  });
  for (int t = 0; t < a.r; ++t, bt += stride) {
    float32x4_t b[V];
    take<type, V>(bt, b);
    each<C>([&](auto c) {
      const float by = u[c][t];
      each<V>([&](auto v) { acc[c][v] = vfmaq_n_f32(acc[c][v], b[v], by); });
    });
  }
  each<C>([&](auto c) { each<V>([&](auto v) { vst1q_f32(y + c * a.ldy + 4 * v, acc[c][v]); }); });
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
  for (; j + 4 * V <= a.n1; j += 4 * V) lowrank_tile<type, V, C>(a, i, j);
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

// ---- attention ----

// Σ exp(x - max) in dot16's lanes and order; the terms go to `terms` unless it is null. Lanes past the end add 0 to a
// sum that is >= 0, which leaves its bits.
inline float exp_sum(const float* x, float max, int n, float* terms) {
  float32x4_t acc[4] = {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)};
  for (int i = 0; i < n; i += 16) {
#pragma GCC unroll 4
    for (int quad = 0; quad < 4; ++quad) {
      const int at = i + 4 * quad, live = n - at;
      if (live > 0) {
        const float32x4_t term = exp_poly(vsubq_f32(load_some<DType::f32>(x + at, live), vdupq_n_f32(max)));
        if (terms) store_some(terms + at, term, live);
        const uint32x4_t kept = vandq_u32(vreinterpretq_u32_f32(term), lanes_below(live));
        acc[quad] = vaddq_f32(acc[quad], vreinterpretq_f32_u32(kept));
      }
    }
  }
  return reduce16(acc);
}

float sum_exp(const float* x, float max, int n) { return exp_sum(x, max, n, nullptr); }

inline void multiply(float* x, float by, int n) {
  for (int i = 0; i < n; ++i) x[i] *= by;
}

inline float exp1(float x) { return vgetq_lane_f32(exp_poly(vdupq_n_f32(x)), 0); }

void softmax_page(float* p, int n, int m, float scale, float* state, size_t ld, int d) {
  for (; m > 0; --m, p += kPagePositions, state += ld) {
    float &max = state[d], &sum = state[d + 1];
    multiply(p, scale, n);
    float new_max = max;
    for (int j = 0; j < n; ++j) new_max = p[j] > new_max ? p[j] : new_max;
    new_max += 0.0f;
    const float page_sum = exp_sum(p, new_max, n, p);
    const float keep = exp1(max - new_max);
    sum = __builtin_fmaf(sum, keep, page_sum);
    if (keep != 1.0f) multiply(state, keep, d);
    max = new_max;
  }
}

void softmax_merge(float* state, const float* later, int d) {
  const float max = later[d] > state[d] ? later[d] : state[d];
  const float keep = exp1(state[d] - max), add = exp1(later[d] - max);
  for (int t = 0; t < d; t += 4) {
    const int live = d - t;
    const float32x4_t kept = vmulq_n_f32(load_some<DType::f32>(state + t, live), keep);
    store_some(state + t, vfmaq_n_f32(kept, load_some<DType::f32>(later + t, live), add), live);
  }
  state[d] = max;
  state[d + 1] = __builtin_fmaf(later[d + 1], add, state[d + 1] * keep);
}

// ---- rows ----

template <DType type>
void dequantize(const void* w, float* out, int k) {
  const uint8_t* from = static_cast<const uint8_t*>(w);
  for (int i = 0; i < k; i += 4) store_some(out + i, load_some<type>(from + i * kSize<type>, k - i), k - i);
}

void f32_to_f16(const float* x, uint16_t* out, int n) {
  int i = 0;
  for (; i + 4 <= n; i += 4) vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
  uint16_t four[4];
  vst1_u16(four, vreinterpret_u16_f16(vcvt_f16_f32(load_some<DType::f32>(x + i, n - i))));
  for (int l = 0; i + l < n; ++l) out[i + l] = four[l];
}

void add(float* y, const float* x, int n) {
  for (int i = 0; i < n; ++i) y[i] += x[i];
}

void rms_norm(const float* x, const float* w, float eps, int n, float* out) {
  float square = 0.0f;
  MatmulArgs self{};
  self.w = self.x = x;
  self.k = n;
  self.y = &square;
  dot_tile<DType::f32, 1, 1>(self, 0, 0);
  const float mean = square / static_cast<float>(n);
  const float scale = 1.0f / vget_lane_f32(vsqrt_f32(vdup_n_f32(mean + eps)), 0);
  for (int i = 0; i < n; ++i) out[i] = x[i] * scale * w[i];
}

void swiglu(const float* gate, const float* up, float* out, int n) {
  for (int i = 0; i < n; i += 4) {
    const float32x4_t g = load_some<DType::f32>(gate + i, n - i), u = load_some<DType::f32>(up + i, n - i);
    const float32x4_t below = vaddq_f32(vdupq_n_f32(1.0f), exp_poly(vnegq_f32(g)));
    store_some(out + i, vmulq_f32(vdivq_f32(g, below), u), n - i);
  }
}

void rope(float* x, const float* cos, const float* sin, int n_rot, bool interleaved) {
  const int half = n_rot / 2;
  int i = 0;
  for (; i + 4 <= half; i += 4) {
    const float32x4_t c = vld1q_f32(cos + i), s = vld1q_f32(sin + i);
    float32x4x2_t pair;
    if (interleaved)
      pair = vld2q_f32(x + 2 * i);
    else
      pair = {{vld1q_f32(x + i), vld1q_f32(x + i + half)}};
    const float32x4_t e = pair.val[0], o = pair.val[1];
    pair.val[0] = vfmaq_f32(vnegq_f32(vmulq_f32(o, s)), e, c);
    pair.val[1] = vfmaq_f32(vmulq_f32(o, c), e, s);
    if (interleaved) {
      vst2q_f32(x + 2 * i, pair);
    } else {
      vst1q_f32(x + i, pair.val[0]);
      vst1q_f32(x + i + half, pair.val[1]);
    }
  }
  for (; i < half; ++i) {
    float& even = x[interleaved ? 2 * i : i];
    float& odd = x[interleaved ? 2 * i + 1 : i + half];
    const float e = even, o = odd;
    even = __builtin_fmaf(e, cos[i], -(o * sin[i]));
    odd = __builtin_fmaf(e, sin[i], o * cos[i]);
  }
}

template <DType type>
void install_type(Table& t) {
  t.matmul[static_cast<int>(type)] = matmul<type>;
  t.dequantize[static_cast<int>(type)] = dequantize<type>;
  t.lowrank[static_cast<int>(type)] = lowrank<type>;
}

}  // namespace

void install(Table& t) {
  t.name = "neon";
  install_type<DType::f32>(t);
  install_type<DType::f16>(t);
  install_type<DType::bf16>(t);
  install_q8(t);
  t.softmax_page = softmax_page;
  t.softmax_merge = softmax_merge;
  t.f32_to_f16 = f32_to_f16;
  t.add = add;
  t.rms_norm = rms_norm;
  t.swiglu = swiglu;
  t.rope = rope;
  t.sum_exp = sum_exp;
  t.int8_peak = int8_peak;
}

}  // namespace lora_edge::neon
