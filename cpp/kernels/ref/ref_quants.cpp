// The specification of quantised weights: what a block's bytes mean, and in which order its products are added. See
// kernels.h and blocks.h.
#include <cmath>

#include "formats/unpack.h"
#include "kernels/kernels.h"

namespace lora_edge::ref {
namespace {

// Of the 32: d · scale as one number where the halves share it; minima as numbers.
template <DType type>
struct Values {
  explicit Values(const Unpacked& u) : d(has_halves(type) ? u.d : u.d * static_cast<float>(u.scale[0])) {
    for (int h = 0; h < 2; ++h) {
      scale[h] = has_halves(type) ? u.scale[h] : 1;
      min[h] = u.dmin * static_cast<float>(u.min[h]);
    }
  }
  float d;
  int scale[2];
  float min[2];
};

template <DType type>
void dequantize(const void* w, float* out, int k) {
  for (int b = 0; b < k / kBlock; ++b) {
    const Unpacked u = unpack<type>(static_cast<const uint8_t*>(w), b);
    const Values<type> v(u);
    for (int i = 0; i < kBlock; ++i) {
      const float value = v.d * static_cast<float>(v.scale[i / 16]) * static_cast<float>(u.q[i]);
      out[b * kBlock + i] = minima(type) ? value + v.min[i / 16] : value;
    }
  }
}

template <DType type>
void matmul(const MatmulArgs& a) {
  const size_t blocks = static_cast<size_t>(a.k / kBlock);
  for (int j = a.n0; j < a.n1; ++j) {
    const uint8_t* row = static_cast<const uint8_t*>(a.w) + static_cast<size_t>(j) * a.w_stride;
    for (int i = 0; i < a.m; ++i) a.y[static_cast<size_t>(i) * a.ldy + static_cast<size_t>(j)] = 0.0f;
    for (size_t b = 0; b < blocks; ++b) {
      const Unpacked u = unpack<type>(row, static_cast<int>(b));
      const Values<type> v(u);
      for (int i = 0; i < a.m; ++i) {
        const size_t at = static_cast<size_t>(i) * blocks + b;
        const int8_t* xq = a.xq + at * kBlock;
        int dot = 0;
        for (int e = 0; e < kBlock; ++e) dot += v.scale[e / 16] * u.q[e] * xq[e];
        const float dx = a.xd[at];
        float& acc = a.y[static_cast<size_t>(i) * a.ldy + static_cast<size_t>(j)];
        acc = std::fmaf(v.d * dx, static_cast<float>(dot), acc);
        const int16_t* s = a.xs + 2 * at;
        if (minima(type) == 1) acc = std::fmaf(v.min[0], dx * static_cast<float>(s[0] + s[1]), acc);
        for (int h = 0; minima(type) == 2 && h < 2; ++h) acc = std::fmaf(v.min[h], dx * static_cast<float>(s[h]), acc);
      }
    }
  }
}

// A span's part of dY·W: types without minima whose blocks have one scale.
constexpr bool one_scale(DType type) {
  return type == DType::q8_0 || type == DType::q4_0 || type == DType::q5_0 || type == DType::iq4_nl;
}

float quantize_q16(const float* x, int n, int16_t* q) {
  float max = 0.0f;
  bool finite = true;
  for (int i = 0; i < n; ++i) {
    max = std::fmax(max, std::fabs(x[i]));
    finite = finite && std::isfinite(x[i]);
  }
  const float d = !finite ? std::nanf("") : max < kLeastQ16 ? 0.0f : max / kMostQ16;
  for (int i = 0; i < kGradientSpan; ++i)
    q[i] = i < n && d > 0.0f ? static_cast<int16_t>(std::nearbyint(x[i] * (1.0f / d))) : int16_t{0};
  return d;
}

template <DType type>
void gradient(const GradientArgs& a) {
  for (int b = 0; b < a.k / kBlock; ++b) {
    Unpacked w[kGradientSpan];
    float d[kGradientSpan];
    int16_t scale[kGradientSpan];
    for (int j = 0; j < a.n; ++j) {
      w[j] = unpack<type>(static_cast<const uint8_t*>(a.w) + static_cast<size_t>(j) * a.w_stride, b);
      d[j] = w[j].d;
    }
    const float of_scales = quantize_q16(d, a.n, scale) * 0x1p15f;
    for (int i = 0; i < a.m; ++i)
      for (int c = 0; c < kBlock; ++c) {
        int sum = 0;
        for (int j = 0; j < a.n; ++j)
          sum += ((a.q[static_cast<size_t>(i) * kGradientSpan + static_cast<size_t>(j)] * scale[j] + (1 << 14)) >> 15) *
                 w[j].q[c];
        float& dx = a.dx[static_cast<size_t>(i) * a.lddx + static_cast<size_t>(b * kBlock + c)];
        dx = std::fmaf(a.d[i] * of_scales, static_cast<float>(sum), dx);
      }
  }
}

template <DType type>
void install_type(Table& t) {
  t.matmul[static_cast<int>(type)] = matmul<type>;
  t.dequantize[static_cast<int>(type)] = dequantize<type>;
  if constexpr (one_scale(type)) t.gradient[static_cast<int>(type)] = gradient<type>;
  t.lowrank[static_cast<int>(type)] = nullptr;
  t.transpose[static_cast<int>(type)] = nullptr;
}

}  // namespace

void install_quants(Table& t) {
  t.quantize_q16 = quantize_q16;
  install_type<DType::q8_0>(t);
  install_type<DType::q4_0>(t);
  install_type<DType::q4_1>(t);
  install_type<DType::q5_0>(t);
  install_type<DType::q5_1>(t);
  install_type<DType::iq4_nl>(t);
  install_type<DType::q2_k>(t);
  install_type<DType::q3_k>(t);
  install_type<DType::q4_k>(t);
  install_type<DType::q5_k>(t);
  install_type<DType::q6_k>(t);
}

}  // namespace lora_edge::ref
