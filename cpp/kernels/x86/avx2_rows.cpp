// Rows of activations: the running softmax, norms, activations, soft caps, rotation.
#include "kernels/x86/avx2_common.h"

namespace lora_edge::avx2 {
namespace {

// Adds Σ exp(x - max) in dot16's lanes, and calls keep(i, lanes, exponentials).
template <class Keep>
float exp_sum(const float* x, float max, int n, Keep keep) {
  const __m256 m = _mm256_set1_ps(max);
  __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
  int i = 0;
  constexpr int kVectors = 4;
  for (; i + kVectors * kLanes <= n; i += kVectors * kLanes) {
    __m256 e[kVectors];
    for (int v = 0; v < kVectors; ++v) e[v] = _mm256_sub_ps(_mm256_loadu_ps(x + i + v * kLanes), m);
    exp_each<kVectors>(e);
    for (int v = 0; v < kVectors; ++v) keep(i + v * kLanes, AllLanes{}, e[v]);
    for (int v = 0; v < kVectors; v += 2) {
      low = _mm256_add_ps(low, e[v]);
      high = _mm256_add_ps(high, e[v + 1]);
    }
  }
  const auto rest = [&](int at) {  // a missing lane adds +0 to a sum that is never -0
    const FirstLanes lanes{lane_mask(n - at)};
    const __m256 e = exp8(_mm256_sub_ps(lanes.load(x + at), m));
    keep(at, lanes, e);
    return lanes.select(e, _mm256_setzero_ps());
  };
  for (; i < n; i += 2 * kLanes) {
    low = _mm256_add_ps(low, rest(i));
    if (i + kLanes < n) high = _mm256_add_ps(high, rest(i + kLanes));
  }
  return reduce16(low, high);
}

float sum_exp(const float* x, float max, int n) {
  return exp_sum(x, max, n, [](int, auto, __m256) {});
}

void scale_row(float* x, float by, int n) {
  const __m256 s = _mm256_set1_ps(by);
  each8(n, [&](int i, auto lanes) { lanes.store(x + i, _mm256_mul_ps(lanes.load(x + i), s)); });
}

// Scales x and returns the largest of it and `max`. The operand order passes over NaN, as ref.cpp does.
float scale_and_max(float* x, float by, int n, float max) {
  const __m256 s = _mm256_set1_ps(by);
  __m256 best = _mm256_set1_ps(max);
  each8(n, [&](int i, auto lanes) {
    const __m256 v = _mm256_mul_ps(lanes.load(x + i), s);
    lanes.store(x + i, v);
    best = _mm256_max_ps(lanes.select(v, best), best);
  });
  return max8(best);
}

inline float exp1(float x) { return _mm256_cvtss_f32(exp8(_mm256_set1_ps(x))); }

// Query by query each step would wait for the one before; step by step the queries overlap.
void softmax_page(float* p, int n, int m, float scale, float* state, size_t ld, int d) {
  constexpr int kQueries = 16;
  for (int q0 = 0; q0 < m; q0 += kQueries) {
    const int queries = m - q0 < kQueries ? m - q0 : kQueries;
    float max[kQueries], sum[kQueries];
    alignas(32) float keep[kQueries] = {};
    const auto scores = [&](int q) { return p + (q0 + q) * kPagePositions; };
    const auto state_of = [&](int q) { return state + static_cast<size_t>(q0 + q) * ld; };
    for (int q = 0; q < queries; ++q) {
      max[q] = scale_and_max(scores(q), scale, n, state_of(q)[d]) + 0.0f;
      keep[q] = state_of(q)[d] - max[q];
    }
    __m256 e[kQueries / kLanes];
    for (int v = 0; v < kQueries / kLanes; ++v) e[v] = _mm256_load_ps(keep + v * kLanes);
    exp_each<kQueries / kLanes>(e);
    for (int v = 0; v < kQueries / kLanes; ++v) _mm256_store_ps(keep + v * kLanes, e[v]);
    for (int q = 0; q < queries; ++q)
      sum[q] = exp_sum(scores(q), max[q], n, [x = scores(q)](int i, auto lanes, __m256 v) { lanes.store(x + i, v); });
    for (int q = 0; q < queries; ++q) {
      float* s = state_of(q);
      s[d] = max[q];
      s[d + 1] = __builtin_fmaf(s[d + 1], keep[q], sum[q]);
      if (keep[q] != 1.0f) scale_row(s, keep[q], d);
    }
  }
}

void softmax_merge(float* state, const float* later, int d) {
  const float max = later[d] > state[d] ? later[d] : state[d];
  const float keep = exp1(state[d] - max), add = exp1(later[d] - max);
  each8(d, [&](int i, auto lanes) {
    const __m256 kept = _mm256_mul_ps(lanes.load(state + i), _mm256_set1_ps(keep));
    lanes.store(state + i, _mm256_fmadd_ps(lanes.load(later + i), _mm256_set1_ps(add), kept));
  });
  state[d] = max;
  state[d + 1] = __builtin_fmaf(later[d + 1], add, state[d + 1] * keep);
}

void add(float* y, const float* x, int n) {
  each8(n, [&](int i, auto lanes) { lanes.store(y + i, _mm256_add_ps(lanes.load(y + i), lanes.load(x + i))); });
}

// The sum, in dot16's lanes and order, of what step(sum, i, lanes) adds to the 8 lanes of i = 0, 8, … below n.
template <class Step>
inline float sum16(int n, Step step) {
  __m256 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
  int i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    low = step(low, i, AllLanes{});
    high = step(high, i + kLanes, AllLanes{});
  }
  const auto rest = [&](__m256 sum, int at) { return at < n ? step(sum, at, FirstLanes{lane_mask(n - at)}) : sum; };
  return reduce16(rest(low, i), rest(high, i + kLanes));
}

// 1 / √(square + eps) in all lanes.
inline __m256 inverse_root(float square, float eps) {
  return _mm256_set1_ps(1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(square + eps))));
}

void rms_norm(const float* x, const float* w, float eps, int n, float* out) {
  const float square = sum16(n, [&](__m256 sum, int i, auto lanes) {  // missing lanes add 0 to what is >= 0
    const __m256 v = lanes.load(x + i);
    return _mm256_fmadd_ps(v, v, sum);
  });
  const __m256 scale = inverse_root(square / static_cast<float>(n), eps);
  each8(n, [&](int i, auto lanes) {
    lanes.store(out + i, _mm256_mul_ps(_mm256_mul_ps(lanes.load(x + i), scale), lanes.load(w + i)));
  });
}

void layer_norm(const float* x, const float* w, const float* b, float eps, int n, float* out) {
  const float sum = sum16(n, [&](__m256 s, int i, auto lanes) { return _mm256_add_ps(s, lanes.load(x + i)); });
  const __m256 mean = _mm256_set1_ps(sum / static_cast<float>(n));
  const float square = sum16(n, [&](__m256 s, int i, auto lanes) {
    const __m256 d = lanes.select(_mm256_sub_ps(lanes.load(x + i), mean), _mm256_setzero_ps());
    return _mm256_fmadd_ps(d, d, s);
  });
  const __m256 scale = inverse_root(square / static_cast<float>(n), eps);
  each8(n, [&](int i, auto lanes) {
    const __m256 y = _mm256_mul_ps(_mm256_mul_ps(_mm256_sub_ps(lanes.load(x + i), mean), scale), lanes.load(w + i));
    lanes.store(out + i, b ? _mm256_add_ps(y, lanes.load(b + i)) : y);
  });
}

void swiglu(const float* gate, const float* up, float* out, int n) {
  each8(n, [&](int i, auto lanes) {
    const __m256 g = lanes.load(gate + i);
    const __m256 e = exp8(_mm256_xor_ps(g, _mm256_set1_ps(-0.0f)));
    const __m256 silu = _mm256_div_ps(g, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
    lanes.store(out + i, _mm256_mul_ps(silu, lanes.load(up + i)));
  });
}

inline __m256 negative(__m256 x) { return _mm256_xor_ps(x, _mm256_set1_ps(-0.0f)); }

inline __m256 gelu_tanh8(__m256 x) {
  const __m256 cubic = _mm256_set1_ps(0.071354816272283f), twice = _mm256_set1_ps(1.5957691216057308f);
  const __m256 z = _mm256_mul_ps(x, _mm256_fmadd_ps(_mm256_mul_ps(x, x), cubic, twice));
  return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), exp8(negative(z))));
}

inline __m256 gelu_erf8(__m256 x) {
  const __m256 one = _mm256_set1_ps(1.0f), magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
  const __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(magnitude, _mm256_set1_ps(0.231641887f), one));
  __m256 p = _mm256_set1_ps(0.5307027145f);
  constexpr float kCoefficients[] = {-0.7265760135f, 0.7107068705f, -0.142248368f, 0.127414796f};
  for (const float c : kCoefficients) p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(c));
  const __m256 e = exp8(_mm256_mul_ps(_mm256_mul_ps(x, x), _mm256_set1_ps(-0.5f)));
  const __m256 tail = _mm256_mul_ps(_mm256_mul_ps(p, t), e);
  const __m256 below = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ);
  return _mm256_mul_ps(x, _mm256_blendv_ps(_mm256_sub_ps(one, tail), tail, below));
}

template <__m256 (*activation)(__m256)>
void gated(const float* gate, const float* up, float* out, int n) {
  each8(n, [&](int i, auto lanes) {
    const __m256 y = activation(lanes.load(gate + i));
    lanes.store(out + i, up ? _mm256_mul_ps(y, lanes.load(up + i)) : y);
  });
}

void soft_cap(float* x, float scale, float cap, int n) {
  const __m256 by = _mm256_set1_ps(-2.0f * scale / cap), one = _mm256_set1_ps(1.0f);
  each8(n, [&](int i, auto lanes) {
    const __m256 v = lanes.load(x + i);
    const __m256 e = exp8(_mm256_mul_ps(v, by));
    const __m256 tanh = _mm256_sub_ps(_mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(one, e)), one);
    const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    lanes.store(x + i, _mm256_blendv_ps(_mm256_mul_ps(_mm256_set1_ps(cap), tanh), v, nan));
  });
}

// Rotates lanes (even, odd) by (c, s).
struct Pair {
  __m256 even, odd;
};
inline Pair rotate(Pair x, __m256 c, __m256 s) {
  return {_mm256_fmsub_ps(x.even, c, _mm256_mul_ps(x.odd, s)), _mm256_fmadd_ps(x.even, s, _mm256_mul_ps(x.odd, c))};
}

void rope(float* x, const float* cos, const float* sin, int n_rot, bool interleaved) {
  const int half = n_rot / 2;
  each8(half, [&](int i, auto lanes) {
    const __m256 c = lanes.load(cos + i), s = lanes.load(sin + i);
    if (!interleaved) {
      float *even = x + i, *odd = x + half + i;
      const Pair y = rotate({lanes.load(even), lanes.load(odd)}, c, s);
      lanes.store(even, y.even);
      lanes.store(odd, y.odd);
      return;
    }
    float *first = x + 2 * i, *second = first + kLanes;
    const int left = n_rot - 2 * i;
    const __m256 a = load_lanes(first, left), b = load_lanes(second, left - kLanes);
    // The shuffles leave pairs 0 1 4 5 | 2 3 6 7; the angles follow them.
    const __m256i order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);
    const Pair y = rotate({_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd)},
                          _mm256_permutevar8x32_ps(c, order), _mm256_permutevar8x32_ps(s, order));
    store_lanes(first, _mm256_unpacklo_ps(y.even, y.odd), left);
    store_lanes(second, _mm256_unpackhi_ps(y.even, y.odd), left - kLanes);
  });
}

}  // namespace

void install_rows(Table& t) {
  t.softmax_page = softmax_page;
  t.softmax_merge = softmax_merge;
  t.add = add;
  t.rms_norm = rms_norm;
  t.layer_norm = layer_norm;
  t.swiglu = swiglu;
  t.gelu_tanh = gated<gelu_tanh8>;
  t.gelu_erf = gated<gelu_erf8>;
  t.soft_cap = soft_cap;
  t.rope = rope;
  t.sum_exp = sum_exp;
}

}  // namespace lora_edge::avx2
