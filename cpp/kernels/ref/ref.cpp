// The specification of every kernel, in plain loops. See kernels.h for the order of each sum.
#include <cmath>

#include "kernels/kernels.h"
#include "kernels/peak.h"

namespace lora_edge::ref {
namespace {

constexpr int kLanes = 16;

float reduce16(float* lane) {
  for (int half = 8; half >= 1; half /= 2)
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  return lane[0];
}

template <DType type>
float load(const void* w, size_t i) {
  if constexpr (type == DType::f32) return static_cast<const float*>(w)[i];
  const uint16_t h = static_cast<const uint16_t*>(w)[i];
  return type == DType::f16 ? f16_to_f32(h) : bf16_to_f32(h);
}

template <DType type>
float dot16(const void* w, const float* x, int k) {
  float lane[kLanes] = {};
  for (int i = 0; i < k; ++i) lane[i % kLanes] = std::fmaf(load<type>(w, i), x[i], lane[i % kLanes]);
  return reduce16(lane);
}

template <DType type>
void matmul(const MatmulArgs& a) {
  for (int i = 0; i < a.m; ++i)
    for (int j = a.n0; j < a.n1; ++j)
      a.y[i * a.ldy + j] = dot16<type>(static_cast<const uint8_t*>(a.w) + j * a.w_stride, a.x + i * a.ldx, a.k);
}

template <DType type>
void dequantize(const void* w, float* out, int k) {
  for (int i = 0; i < k; ++i) out[i] = load<type>(w, i);
}

template <DType type>
void lowrank(const LowRankArgs& a) {
  for (int i = 0; i < a.m; ++i)
    for (int t = 0; t < a.r; ++t)
      for (int j = a.n0; j < a.n1; ++j) {
        float& y = a.y[i * a.ldy + j];
        y = std::fmaf(a.u[i * a.ldu + t], load<type>(a.bt, static_cast<size_t>(t) * a.n + j), y);
      }
}

template <DType type>
void transpose(const void* in, size_t in_stride, int n, int r, float* out) {
  for (int j = 0; j < n; ++j)
    for (int t = 0; t < r; ++t) out[t * n + j] = load<type>(static_cast<const uint8_t*>(in) + j * in_stride, t);
}

// exp(x) = 2^n · p(r), n = round(x / ln 2), |r| <= ln 2 / 2, p by Cephes' expf; relative error below 2e-7.
float exp_poly(float x) {
  x = x > -87.0f ? x : -87.0f;  // also NaN
  x = x < 88.0f ? x : 88.0f;
  const float n = std::nearbyintf(x * 1.44269504088896341f);
  float r = std::fmaf(n, -0.693359375f, x);
  r = std::fmaf(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = std::fmaf(p, r, 1.3981999507e-3f);
  p = std::fmaf(p, r, 8.3334519073e-3f);
  p = std::fmaf(p, r, 4.1665795894e-2f);
  p = std::fmaf(p, r, 1.6666665459e-1f);
  p = std::fmaf(p, r, 5.0000001201e-1f);
  p = std::fmaf(p, r * r, r) + 1.0f;
  return p * bits_to_f32(static_cast<uint32_t>(static_cast<int>(n) + 127) << 23);
}

float sum_exp(const float* x, float max, int n) {
  float lane[kLanes] = {};
  for (int i = 0; i < n; ++i) lane[i % kLanes] += exp_poly(x[i] - max);
  return reduce16(lane);
}

void softmax_page(float* p, int n, int m, float scale, float* state, size_t ld, int d) {
  for (; m > 0; --m, p += kPagePositions, state += ld) {
    float &max = state[d], &sum = state[d + 1];
    float new_max = max;
    for (int j = 0; j < n; ++j) {
      p[j] *= scale;
      new_max = p[j] > new_max ? p[j] : new_max;
    }
    new_max += 0.0f;  // of zeros of both signs either may be the largest
    float lane[kLanes] = {};
    for (int j = 0; j < n; ++j) {
      p[j] = exp_poly(p[j] - new_max);
      lane[j % kLanes] += p[j];
    }
    const float keep = exp_poly(max - new_max);
    sum = std::fmaf(sum, keep, reduce16(lane));
    for (int t = 0; t < d; ++t) state[t] *= keep;
    max = new_max;
  }
}

void softmax_merge(float* state, const float* later, int d) {
  const float max = later[d] > state[d] ? later[d] : state[d];
  const float keep = exp_poly(state[d] - max), add = exp_poly(later[d] - max);
  for (int t = 0; t < d; ++t) state[t] = std::fmaf(later[t], add, state[t] * keep);
  state[d] = max;
  state[d + 1] = std::fmaf(later[d + 1], add, state[d + 1] * keep);
}

void dequantize_keys(const int8_t* q, const uint16_t* scales, int d, float* out) {
  constexpr int n = kPagePositions;
  for (int t = 0; t < d; ++t)
    for (int j = 0; j < n; ++j) out[t * n + j] = f16_to_f32(scales[t / kBlock * n + j]) * q[t * n + j];
}

void quantize_q8(const float* x, int8_t* q, float* d, int16_t* s, int k) {
  for (int b = 0; b < k / kBlock; ++b) {
    float max = 0.0f;
    for (int e = 0; e < kBlock; ++e) {
      const float abs = std::fabs(x[b * kBlock + e]);
      max = abs > max ? abs : max;
    }
    d[b] = max / 127.0f;
    const float inverse = d[b] != 0.0f ? 1.0f / d[b] : 0.0f;
    s[2 * b] = s[2 * b + 1] = 0;
    for (int e = 0; e < kBlock; ++e) {
      float v = std::nearbyintf(x[b * kBlock + e] * inverse);  // above 127 only where 1/d lost all precision
      v = v > 127.0f ? 127.0f : v;
      v = v > -127.0f ? v : -127.0f;  // also NaN
      q[b * kBlock + e] = static_cast<int8_t>(v);
      s[2 * b + e / 16] = static_cast<int16_t>(s[2 * b + e / 16] + q[b * kBlock + e]);
    }
  }
}

void to_f16(const float* x, uint16_t* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = f32_to_f16(x[i]);
}

void add(float* y, const float* x, int n) {
  for (int i = 0; i < n; ++i) y[i] += x[i];
}

void rms_norm(const float* x, const float* w, float eps, int n, float* out) {
  const float mean = dot16<DType::f32>(x, x, n) / static_cast<float>(n);
  const float scale = 1.0f / std::sqrt(mean + eps);
  for (int i = 0; i < n; ++i) out[i] = x[i] * scale * w[i];
}

void layer_norm(const float* x, const float* w, const float* b, float eps, int n, float* out) {
  float sum[kLanes] = {}, square[kLanes] = {};
  for (int i = 0; i < n; ++i) sum[i % kLanes] += x[i];
  const float mean = reduce16(sum) / static_cast<float>(n);
  for (int i = 0; i < n; ++i) square[i % kLanes] = std::fmaf(x[i] - mean, x[i] - mean, square[i % kLanes]);
  const float scale = 1.0f / std::sqrt(reduce16(square) / static_cast<float>(n) + eps);
  for (int i = 0; i < n; ++i) {
    out[i] = (x[i] - mean) * scale * w[i];
    if (b) out[i] += b[i];
  }
}

// 0.5 · x · (1 + tanh(z)) = x / (1 + exp(-2z)) with z = sqrt(2 / pi) · (x + 0.044715 x³).
float gelu_tanh(float x) {
  constexpr float kTwice = 1.5957691216057308f, kCubic = 0.071354816272283f;  // 2 sqrt(2 / pi), and 0.044715 of it
  return x / (1.0f + exp_poly(-(x * std::fmaf(x * x, kCubic, kTwice))));
}

// x · Φ(x): half of erfc(|x| / sqrt(2)) is tail = p(t) · exp(-x² / 2) with t = 1 / (1 + 0.3275911 |x| / sqrt(2)), p
// being half of the published polynomial; Φ is tail below 0 and 1 - tail above.
float gelu_erf(float x) {
  const float t = 1.0f / std::fmaf(std::fabs(x), 0.231641887f, 1.0f);
  float p = 0.5307027145f;
  p = std::fmaf(p, t, -0.7265760135f);
  p = std::fmaf(p, t, 0.7107068705f);
  p = std::fmaf(p, t, -0.142248368f);
  p = std::fmaf(p, t, 0.127414796f);
  const float tail = p * t * exp_poly(x * x * -0.5f);
  return x * (x < 0.0f ? tail : 1.0f - tail);
}

template <float (*activation)(float)>
void gated(const float* gate, const float* up, float* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = up ? activation(gate[i]) * up[i] : activation(gate[i]);
}

// tanh(z) = 2 / (1 + exp(-2z)) - 1.
void soft_cap(float* x, float scale, float cap, int n) {
  const float by = -2.0f * scale / cap;
  for (int i = 0; i < n; ++i)
    if (x[i] == x[i]) x[i] = cap * (2.0f / (1.0f + exp_poly(x[i] * by)) - 1.0f);
}

void swiglu(const float* gate, const float* up, float* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + exp_poly(-gate[i])) * up[i];
}

void rope(float* x, const float* cos, const float* sin, int n_rot, bool interleaved) {
  const int half = n_rot / 2;
  for (int i = 0; i < half; ++i) {
    float& even = x[interleaved ? 2 * i : i];
    float& odd = x[interleaved ? 2 * i + 1 : i + half];
    const float e = even, o = odd;
    even = std::fmaf(e, cos[i], -(o * sin[i]));
    odd = std::fmaf(e, sin[i], o * cos[i]);
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
  t.name = "ref";
  install_type<DType::f32>(t);
  install_type<DType::f16>(t);
  install_type<DType::bf16>(t);
  install_quants(t);
  t.softmax_page = softmax_page;
  t.softmax_merge = softmax_merge;
  t.dequantize_keys = dequantize_keys;
  t.quantize_q8 = quantize_q8;
  t.f32_to_f16 = to_f16;
  t.add = add;
  t.rms_norm = rms_norm;
  t.layer_norm = layer_norm;
  t.swiglu = swiglu;
  t.gelu_tanh = gated<gelu_tanh>;
  t.gelu_erf = gated<gelu_erf>;
  t.soft_cap = soft_cap;
  t.rope = rope;
  t.sum_exp = sum_exp;
  t.int8_peak = int8_peak;
}

}  // namespace lora_edge::ref
