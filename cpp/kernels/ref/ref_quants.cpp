// The specification of quantised weights: what a block's bytes mean, and in which order its products are added. See
// kernels.h and blocks.h.
#include <cmath>
#include <type_traits>

#include "kernels/kernels.h"

namespace lora_edge::ref {
namespace {

// 32 weights: value i = (d · scale[i / 16]) · q[i] + min[i / 16].
struct Unpacked {
  int q[kBlock];
  float d;
  int scale[2] = {1, 1};
  float min[2] = {0, 0};
};

template <class Block>
Block load(const uint8_t* p) {
  Block block;
  std::memcpy(&block, p, sizeof(block));
  return block;
}

int nibble(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }
int bit(const uint8_t* bits, int i) { return bits[i / 8] >> i % 8 & 1; }

// Scale and min of block b of Q4_K and Q5_K: the first four have 6 bits of a byte each; of the last four the low four
// bits share a byte, and the high two are the high ones of the first four's.
void sub_scales(const uint8_t* s, int b, int* scale, int* min) {
  *scale = b < 4 ? s[b] & 63 : (s[b + 4] & 15) | s[b - 4] >> 6 << 4;
  *min = b < 4 ? s[b + 4] & 63 : s[b + 4] >> 4 | s[b] >> 6 << 4;
}

// Block b of a row.
template <DType type>
Unpacked unpack(const uint8_t* row, int b) {
  constexpr bool super = type >= DType::q2_k;
  const uint8_t* p = row + static_cast<size_t>(super ? b / 8 : b) * block_size(type).bytes;
  b %= 8;
  Unpacked u;
  if constexpr (type == DType::q8_0) {
    const auto block = load<BlockQ8_0>(p);
    u.d = f16_to_f32(block.d);
    for (int i = 0; i < kBlock; ++i) u.q[i] = block.qs[i];
  } else if constexpr (type == DType::q4_0) {
    const auto block = load<BlockQ4_0>(p);
    u.d = f16_to_f32(block.d);
    for (int i = 0; i < kBlock; ++i) u.q[i] = nibble(block.qs, i) - 8;
  } else if constexpr (type == DType::iq4_nl) {
    const auto block = load<BlockIq4Nl>(p);
    u.d = f16_to_f32(block.d);
    for (int i = 0; i < kBlock; ++i) u.q[i] = kIq4Nl[nibble(block.qs, i)];
  } else if constexpr (type == DType::q4_1) {
    const auto block = load<BlockQ4_1>(p);
    u.d = f16_to_f32(block.d);
    u.min[0] = u.min[1] = f16_to_f32(block.m);
    for (int i = 0; i < kBlock; ++i) u.q[i] = nibble(block.qs, i);
  } else if constexpr (type == DType::q5_0) {
    const auto block = load<BlockQ5_0>(p);
    u.d = f16_to_f32(block.d);
    for (int i = 0; i < kBlock; ++i) u.q[i] = (nibble(block.qs, i) | bit(block.qh, i) << 4) - 16;
  } else if constexpr (type == DType::q5_1) {
    const auto block = load<BlockQ5_1>(p);
    u.d = f16_to_f32(block.d);
    u.min[0] = u.min[1] = f16_to_f32(block.m);
    for (int i = 0; i < kBlock; ++i) u.q[i] = nibble(block.qs, i) | bit(block.qh, i) << 4;
  } else if constexpr (type == DType::q2_k) {
    const auto block = load<BlockQ2K>(p);
    u.d = f16_to_f32(block.d);
    for (int h = 0; h < 2; ++h) {
      u.scale[h] = block.scales[2 * b + h] & 15;
      u.min[h] = -(f16_to_f32(block.dmin) * static_cast<float>(block.scales[2 * b + h] >> 4));
    }
    for (int i = 0; i < kBlock; ++i) u.q[i] = block.qs[b / 4 * 32 + i] >> 2 * (b % 4) & 3;
  } else if constexpr (type == DType::q3_k) {
    const auto block = load<BlockQ3K>(p);
    u.d = f16_to_f32(block.d);
    for (int h = 0; h < 2; ++h) {
      const int s = 2 * b + h;
      const int low = s < 8 ? block.scales[s] & 15 : block.scales[s - 8] >> 4;
      u.scale[h] = (low | (block.scales[8 + s % 4] >> 2 * (s / 4) & 3) << 4) - 32;
    }
    for (int i = 0; i < kBlock; ++i)
      u.q[i] = ((block.qs[b / 4 * 32 + i] >> 2 * (b % 4) & 3) | (block.hmask[i] >> b & 1) << 2) - 4;
  } else if constexpr (type == DType::q4_k || type == DType::q5_k) {
    using Block = std::conditional_t<type == DType::q4_k, BlockQ4K, BlockQ5K>;
    const auto block = load<Block>(p);
    int scale, min;
    sub_scales(block.scales, b, &scale, &min);
    u.d = f16_to_f32(block.d) * static_cast<float>(scale);
    u.min[0] = u.min[1] = -(f16_to_f32(block.dmin) * static_cast<float>(min));
    for (int i = 0; i < kBlock; ++i) u.q[i] = block.qs[b / 2 * 32 + i] >> 4 * (b % 2) & 15;
    if constexpr (type == DType::q5_k)
      for (int i = 0; i < kBlock; ++i) u.q[i] |= (block.qh[i] >> b & 1) << 4;
  } else {
    static_assert(type == DType::q6_k, "each type has its own meaning");
    const auto block = load<BlockQ6K>(p);
    u.d = f16_to_f32(block.d);
    for (int h = 0; h < 2; ++h) u.scale[h] = block.scales[2 * b + h];
    for (int i = 0; i < kBlock; ++i) {
      const int low = block.ql[b / 4 * 64 + b % 2 * 32 + i] >> (b % 4 < 2 ? 0 : 4) & 15;
      u.q[i] = (low | (block.qh[b / 4 * 32 + i] >> 2 * (b % 4) & 3) << 4) - 32;
    }
  }
  return u;
}

// Minima of a block: none, one, or one of each half.
constexpr int minima(DType type) {
  return type == DType::q2_k                                                                        ? 2
         : type == DType::q4_1 || type == DType::q5_1 || type == DType::q4_k || type == DType::q5_k ? 1
                                                                                                    : 0;
}

template <DType type>
void dequantize(const void* w, float* out, int k) {
  for (int b = 0; b < k / kBlock; ++b) {
    const Unpacked u = unpack<type>(static_cast<const uint8_t*>(w), b);
    for (int i = 0; i < kBlock; ++i) {
      const float value = u.d * static_cast<float>(u.scale[i / 16]) * static_cast<float>(u.q[i]);
      out[b * kBlock + i] = minima(type) ? value + u.min[i / 16] : value;
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
      for (int i = 0; i < a.m; ++i) {
        const size_t at = static_cast<size_t>(i) * blocks + b;
        const int8_t* xq = a.xq + at * kBlock;
        int dot = 0;
        for (int e = 0; e < kBlock; ++e) dot += u.scale[e / 16] * u.q[e] * xq[e];
        const float dx = a.xd[at];
        float& acc = a.y[static_cast<size_t>(i) * a.ldy + static_cast<size_t>(j)];
        acc = std::fmaf(u.d * dx, static_cast<float>(dot), acc);
        const int16_t* s = a.xs + 2 * at;
        if (minima(type) == 1) acc = std::fmaf(u.min[0], dx * static_cast<float>(s[0] + s[1]), acc);
        for (int h = 0; minima(type) == 2 && h < 2; ++h) acc = std::fmaf(u.min[h], dx * static_cast<float>(s[h]), acc);
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
