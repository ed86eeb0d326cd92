// Rows of activations: the running softmax, norms, SwiGLU, rotation. Four registers go step by step: a CPU that works
// in order has four instructions for each latency.
#include "kernels/arm/neon_lanes.h"

namespace lora_edge::neon {
namespace {

// The factors and addends of `ref`'s exp, in lanes: made once per call, as full registers of each would be loaded with
// every loop. The asm keeps the compiler from that.
struct ExpConstants {
  ExpConstants() {
    static constexpr float kConstants[] = {1.44269504088896341f, -0.693359375f,    2.12194440e-4f,   1.9875691500e-4f,
                                           1.3981999507e-3f,     8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f};
    a = vld1q_f32(kConstants), b = vld1q_f32(kConstants + 4);
    asm("" : "+w"(a), "+w"(b));
  }
  float32x4_t a, b;
};

// exp on N registers, step by step; kBelow: of x <= 0 or NaN, which need no upper limit. The power of two goes straight
// to the exponent's bits, as 2^23 · n: with x >= -87 no result is subnormal. `ref` takes any NaN for -87, this a quiet
// one: differences are quiet, and a gate that is NaN makes its SwiGLU NaN.
template <int N, bool kBelow = false>
__attribute__((always_inline)) inline void exp_each(const ExpConstants& k, float32x4_t* x) {
  const float32x4_t a = k.a, b = k.b;
  float32x4_t n[N], p[N];
  each<N>([&](auto i) { x[i] = vmaxnmq_f32(x[i], vdupq_n_f32(-87.0f)); });  // also NaN
  if constexpr (!kBelow) each<N>([&](auto i) { x[i] = vminnmq_f32(x[i], vdupq_n_f32(88.0f)); });
  each<N>([&](auto i) { n[i] = vmulq_laneq_f32(x[i], a, 0); });
  each<N>([&](auto i) { n[i] = vrndnq_f32(n[i]); });
  each<N>([&](auto i) { x[i] = vfmaq_laneq_f32(x[i], n[i], a, 1); });
  each<N>([&](auto i) { x[i] = vfmaq_laneq_f32(x[i], n[i], a, 2); });
  each<N>([&](auto i) { p[i] = vfmaq_laneq_f32(vdupq_laneq_f32(b, 0), x[i], a, 3); });
  each<3>([&](auto c) { each<N>([&](auto i) { p[i] = vfmaq_f32(vdupq_laneq_f32(b, c + 1), p[i], x[i]); }); });
  each<N>([&](auto i) { p[i] = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p[i], x[i]); });
  each<N>([&](auto i) { x[i] = vfmaq_f32(x[i], p[i], vmulq_f32(x[i], x[i])); });
  each<N>([&](auto i) { x[i] = vaddq_f32(x[i], vdupq_n_f32(1.0f)); });
  each<N>(
      [&](auto i) { x[i] = vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x[i]), vcvtq_n_s32_f32(n[i], 23))); });
}

inline float exp1(float x) {
  float32x4_t v = vdupq_n_f32(x);
  exp_each<1>({}, &v);
  return vgetq_lane_f32(v, 0);
}

// exp(x - max), which takes the place of x if kPage, x then being at most max.
template <bool kPage>
__attribute__((always_inline)) inline Lanes exp16(const ExpConstants& k, const float* x, float max, float* page) {
  Lanes e = load_lanes(x);
  each<4>([&](auto q) { e.v[q] = vsubq_f32(e.v[q], vdupq_n_f32(max)); });
  exp_each<4, kPage>(k, e.v);
  if constexpr (kPage) store_lanes(page, e);
  return e;
}

// The same of n < 16, with zeros behind. Out of line: the caller's loop then has its registers for itself.
template <bool kPage>
__attribute__((noinline)) Lanes exp_rest(const float* x, float max, float* page, int n) {
  const FirstLanes lanes{n};
  Lanes e = lanes.load(x);
  each<4>([&](auto q) { e.v[q] = vsubq_f32(e.v[q], vdupq_n_f32(max)); });
  exp_each<4, kPage>({}, e.v);
  if constexpr (kPage) lanes.store(page, e);
  return lanes.or_zero(e);
}

// Σ exp(x - max) in dot16's lanes and order. Lanes past the end add 0 to a sum that is >= 0, which leaves its bits.
template <bool kPage>
__attribute__((always_inline)) inline float exp_sum(const ExpConstants& k, const float* x, float max, int n,
                                                    float* page) {
  float32x4_t sum[4];
  each<4>([&](auto q) { sum[q] = vdupq_n_f32(0.0f); });
  const auto add = [&](const Lanes& e) { each<4>([&](auto q) { sum[q] = vaddq_f32(sum[q], e.v[q]); }); };
  int i = 0;
  const auto to = [&] { return kPage ? page + i : nullptr; };
  for (; i + kLanes <= n; i += kLanes) add(exp16<kPage>(k, x + i, max, to()));
  if (i < n) add(exp_rest<kPage>(x + i, max, to(), n - i));
  return reduce16(sum);
}

float sum_exp(const float* x, float max, int n) { return exp_sum<false>({}, x, max, n, nullptr); }

void multiply(float* x, float by, int n) {
  each16(n, [&](int i, auto lanes) {
    const Lanes v = lanes.load(x + i);
    lanes.store(x + i, lanes_of([&](auto q) { return vmulq_n_f32(v.v[q], by); }));
  });
}

// Scales x and returns the largest of it, of no numbers but NaN -inf.
float scale_and_max(float* x, float by, int n) {
  float32x4_t best[4];
  each<4>([&](auto q) { best[q] = vdupq_n_f32(-__builtin_inff()); });
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Lanes v = load_lanes(x + i);
    const Lanes scaled = lanes_of([&](auto q) { return vmulq_n_f32(v.v[q], by); });
    each<4>([&](auto q) { best[q] = vmaxnmq_f32(best[q], scaled.v[q]); });
    store_lanes(x + i, scaled);
  }
  float max = vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(best[0], best[1]), vmaxnmq_f32(best[2], best[3])));
  for (; i < n; ++i) {
    x[i] *= by;
    max = x[i] > max ? x[i] : max;
  }
  return max;
}

// Four queries at a time, whose states are scaled by one register of exponentials.
void softmax_page(float* p, int n, int m, float scale, float* state, size_t ld, int d) {
  constexpr int kQueries = 4;
  const ExpConstants k;
  for (; m > 0; m -= kQueries, p += kQueries * kPagePositions, state += kQueries * ld) {
    const int queries = m < kQueries ? m : kQueries;
    float max[kQueries], keep[kQueries] = {};
    for (int q = 0; q < queries; ++q) {
      const float before = state[static_cast<size_t>(q) * ld + static_cast<size_t>(d)];
      const float largest = scale_and_max(p + q * kPagePositions, scale, n);
      max[q] = (largest > before ? largest : before) + 0.0f;  // NaN stays
      keep[q] = before - max[q];
    }
    float32x4_t e = vld1q_f32(keep);
    exp_each<1>(k, &e);
    vst1q_f32(keep, e);
    for (int q = 0; q < queries; ++q) {
      float *x = p + q * kPagePositions, *s = state + static_cast<size_t>(q) * ld;
      const float sum = exp_sum<true>(k, x, max[q], n, x);
      s[d] = max[q];
      s[d + 1] = __builtin_fmaf(s[d + 1], keep[q], sum);
      if (keep[q] != 1.0f) multiply(s, keep[q], d);
    }
  }
}

void softmax_merge(float* state, const float* later, int d) {
  const float max = later[d] > state[d] ? later[d] : state[d];
  const float keep = exp1(state[d] - max), add = exp1(later[d] - max);
  each16(d, [&](int i, auto lanes) {
    const Lanes s = lanes.load(state + i), l = lanes.load(later + i);
    lanes.store(state + i, lanes_of([&](auto q) { return vfmaq_n_f32(vmulq_n_f32(s.v[q], keep), l.v[q], add); }));
  });
  state[d] = max;
  state[d + 1] = __builtin_fmaf(later[d + 1], add, state[d + 1] * keep);
}

__attribute__((flatten)) void add(float* y, const float* x, int n) {
  each16(n, [&](int i, auto lanes) {
    const Lanes a = lanes.load(y + i), b = lanes.load(x + i);
    lanes.store(y + i, lanes_of([&](auto q) { return vaddq_f32(a.v[q], b.v[q]); }));
  });
}

void rms_norm(const float* x, const float* w, float eps, int n, float* out) {
  float32x4_t square[4];
  each<4>([&](auto q) { square[q] = vdupq_n_f32(0.0f); });
  each16(n, [&](int i, auto lanes) {  // lanes past the end add 0 to what is >= 0
    const Lanes v = lanes.load(x + i);
    each<4>([&](auto q) { square[q] = vfmaq_f32(square[q], v.v[q], v.v[q]); });
  });
  const float mean = reduce16(square) / static_cast<float>(n);
  const float scale = 1.0f / vget_lane_f32(vsqrt_f32(vdup_n_f32(mean + eps)), 0);
  each16(n, [&](int i, auto lanes) {
    const Lanes v = lanes.load(x + i), by = lanes.load(w + i);
    lanes.store(out + i, lanes_of([&](auto q) { return vmulq_f32(vmulq_n_f32(v.v[q], scale), by.v[q]); }));
  });
}

__attribute__((flatten)) void swiglu(const float* gate, const float* up, float* out, int n) {
  const ExpConstants k;
  each16(n, [&](int i, auto lanes) {
    const Lanes g = lanes.load(gate + i);
    Lanes e = lanes_of([&](auto q) { return vnegq_f32(g.v[q]); });
    exp_each<4>(k, e.v);
    const Lanes u = lanes.load(up + i);
    lanes.store(out + i, lanes_of([&](auto q) {
                  return vmulq_f32(vdivq_f32(g.v[q], vaddq_f32(vdupq_n_f32(1.0f), e.v[q])), u.v[q]);
                }));
  });
}

void layer_norm(const float* x, const float* w, const float* b, float eps, int n, float* out) {
  float32x4_t sum[4], square[4];
  each<4>([&](auto q) { sum[q] = square[q] = vdupq_n_f32(0.0f); });
  each16(n, [&](int i, auto lanes) {  // lanes past the end add 0 to what is never -0
    const Lanes v = lanes.load(x + i);
    each<4>([&](auto q) { sum[q] = vaddq_f32(sum[q], v.v[q]); });
  });
  const float mean = reduce16(sum) / static_cast<float>(n);
  const auto centred = [&](const Lanes& v) {
    return lanes_of([&](auto q) { return vsubq_f32(v.v[q], vdupq_n_f32(mean)); });
  };
  each16(n, [&](int i, auto lanes) {
    const Lanes d = lanes.or_zero(centred(lanes.load(x + i)));
    each<4>([&](auto q) { square[q] = vfmaq_f32(square[q], d.v[q], d.v[q]); });
  });
  const float variance = reduce16(square) / static_cast<float>(n);
  const float scale = 1.0f / vget_lane_f32(vsqrt_f32(vdup_n_f32(variance + eps)), 0);
  each16(n, [&](int i, auto lanes) {
    const Lanes d = centred(lanes.load(x + i)), by = lanes.load(w + i);
    Lanes y = lanes_of([&](auto q) { return vmulq_f32(vmulq_n_f32(d.v[q], scale), by.v[q]); });
    if (b) {
      const Lanes bias = lanes.load(b + i);
      y = lanes_of([&](auto q) { return vaddq_f32(y.v[q], bias.v[q]); });
    }
    lanes.store(out + i, y);
  });
}

struct GeluTanh {
  ExpConstants k;
  Lanes operator()(const Lanes& x) const {
    Lanes e = lanes_of([&](auto q) {
      const float32x4_t z =
          vfmaq_f32(vdupq_n_f32(1.5957691216057308f), vmulq_f32(x.v[q], x.v[q]), vdupq_n_f32(0.071354816272283f));
      return vnegq_f32(vmulq_f32(x.v[q], z));
    });
    exp_each<4>(k, e.v);
    return lanes_of([&](auto q) { return vdivq_f32(x.v[q], vaddq_f32(vdupq_n_f32(1.0f), e.v[q])); });
  }
};

struct GeluErf {
  ExpConstants k;
  Lanes operator()(const Lanes& x) const {
    const float32x4_t one = vdupq_n_f32(1.0f);
    Lanes e = lanes_of([&](auto q) { return vmulq_n_f32(vmulq_f32(x.v[q], x.v[q]), -0.5f); });
    exp_each<4>(k, e.v);
    return lanes_of([&](auto q) {
      const float32x4_t t = vdivq_f32(one, vfmaq_f32(one, vabsq_f32(x.v[q]), vdupq_n_f32(0.231641887f)));
      float32x4_t p = vdupq_n_f32(0.5307027145f);
      constexpr float kCoefficients[] = {-0.7265760135f, 0.7107068705f, -0.142248368f, 0.127414796f};
      for (const float c : kCoefficients) p = vfmaq_f32(vdupq_n_f32(c), p, t);
      const float32x4_t tail = vmulq_f32(vmulq_f32(p, t), e.v[q]);
      return vmulq_f32(x.v[q], vbslq_f32(vcltzq_f32(x.v[q]), tail, vsubq_f32(one, tail)));
    });
  }
};

template <class Activation>
void gated(const float* gate, const float* up, float* out, int n) {
  const Activation activation;
  each16(n, [&](int i, auto lanes) {
    Lanes y = activation(lanes.load(gate + i));
    if (up) {
      const Lanes u = lanes.load(up + i);
      y = lanes_of([&](auto q) { return vmulq_f32(y.v[q], u.v[q]); });
    }
    lanes.store(out + i, y);
  });
}

void soft_cap(float* x, float scale, float cap, int n) {
  const ExpConstants k;
  const float by = -2.0f * scale / cap;
  each16(n, [&](int i, auto lanes) {
    const Lanes v = lanes.load(x + i);
    Lanes e = lanes_of([&](auto q) { return vmulq_n_f32(v.v[q], by); });
    exp_each<4>(k, e.v);
    lanes.store(x + i, lanes_of([&](auto q) {
                  const float32x4_t one = vdupq_n_f32(1.0f);
                  const float32x4_t tanh = vsubq_f32(vdivq_f32(vdupq_n_f32(2.0f), vaddq_f32(one, e.v[q])), one);
                  return vbslq_f32(vceqq_f32(v.v[q], v.v[q]), vmulq_n_f32(tanh, cap), v.v[q]);
                }));
  });
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

}  // namespace

void install_rows(Table& t) {
  t.softmax_page = softmax_page;
  t.softmax_merge = softmax_merge;
  t.add = add;
  t.rms_norm = rms_norm;
  t.layer_norm = layer_norm;
  t.swiglu = swiglu;
  t.gelu_tanh = gated<GeluTanh>;
  t.gelu_erf = gated<GeluErf>;
  t.soft_cap = soft_cap;
  t.rope = rope;
  t.sum_exp = sum_exp;
}

}  // namespace lora_edge::neon
