// Q8_0 weights: matmul by widening multiplies, and conversion to and from the format.
#include "kernels/arm/q8_rows.h"

namespace lora_edge::neon {
namespace {

// A 16-bit lane holds two products: at most 2 · 128 · 127 = 32512. Live at once for 4 tokens: 8 of x, 2 of w, 12 sums
// (rows of W are folded in pairs), 4 accumulators, the scales and the products in hand: 31 of 32 registers.
struct WideningRows {
  static constexpr int kTokens = 4, kSteps = 6;
  static constexpr bool kRunning = false;
  using Part = int16x8_t;
  template <int i>
  static void step(const int8x16_t* w, const int8x16_t* x, Part& part, int32x4_t& sum) {
    constexpr int half = i / 3;
    if constexpr (i % 3 == 0)
      part = vmull_s8(vget_low_s8(w[half]), vget_low_s8(x[half]));
    else if constexpr (i % 3 == 1)
      part = vmlal_high_s8(part, w[half], x[half]);
    else
      sum = half == 0 ? vpaddlq_s16(part) : vpadalq_s16(sum, part);
  }
};

void matmul(const MatmulArgs& a) { rows_matmul<WideningRows>(a); }

void dequantize(const void* w, float* out, int k) {
  for (int b = 0; b < k / kBlock; ++b) {
    const uint8_t* block = static_cast<const uint8_t*>(w) + b * sizeof(BlockQ8_0);
    const uint16x4_t half = vld1_dup_u16(reinterpret_cast<const uint16_t*>(block));
    const float32x4_t d = vcvt_f32_f16(vreinterpret_f16_u16(half));
    for (int e = 0; e < kBlock; e += 8) {
      const int16x8_t q = vmovl_s8(vld1_s8(reinterpret_cast<const int8_t*>(block + sizeof(uint16_t) + e)));
      vst1q_f32(out + b * kBlock + e, vmulq_f32(d, vcvtq_f32_s32(vmovl_s16(vget_low_s16(q)))));
      vst1q_f32(out + b * kBlock + e + 4, vmulq_f32(d, vcvtq_f32_s32(vmovl_high_s16(q))));
    }
  }
}

// In columns of 8 positions: 32 rows share their scales.
void dequantize_keys(const int8_t* q, const uint16_t* scales, int d, float* out) {
  for (int b = 0; b < d; b += kBlock, scales += kPagePositions)
    for (int j = 0; j < kPagePositions; j += 8) {
      const float16x8_t half = vreinterpretq_f16_u16(vld1q_u16(scales + j));
      const float32x4_t low = vcvt_f32_f16(vget_low_f16(half)), high = vcvt_high_f32_f16(half);
      for (int t = b; t < b + kBlock; ++t) {
        const int at = t * kPagePositions + j;
        const int16x8_t wide = vmovl_s8(vld1_s8(q + at));
        vst1q_f32(out + at, vmulq_f32(low, vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)))));
        vst1q_f32(out + at + 4, vmulq_f32(high, vcvtq_f32_s32(vmovl_high_s16(wide))));
      }
    }
}

// One block of any numbers.
void quantize_block(const float* x, int8_t* q, float* d, int16_t* s) {
  const float32x4_t high = vdupq_n_f32(127.0f), low = vdupq_n_f32(-127.0f);
  const uint32x4_t infinity = vdupq_n_u32(0x7f800000u);
  uint32x4_t max = vdupq_n_u32(0);  // the bits of floats >= 0, which order as they do
  for (int e = 0; e < kBlock; e += 4) {
    const uint32x4_t abs = vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + e)));
    max = vmaxq_u32(max, vandq_u32(abs, vcleq_u32(abs, infinity)));  // a NaN counts as 0
  }
  *d = vget_lane_f32(vreinterpret_f32_u32(vdup_n_u32(vmaxvq_u32(max))), 0) / 127.0f;
  const float inverse = *d != 0.0f ? 1.0f / *d : 0.0f;
  int16x8_t sum[kBlock / 8];
  for (int e = 0; e < kBlock; e += 8) {
    int16x4_t part[2];
    for (int h = 0; h < 2; ++h) {
      float32x4_t v = vrndnq_f32(vmulq_n_f32(vld1q_f32(x + e + 4 * h), inverse));
      v = vbslq_f32(vcgtq_f32(v, high), high, v);
      v = vbslq_f32(vcgtq_f32(v, low), v, low);  // also NaN
      part[h] = vmovn_s32(vcvtq_s32_f32(v));
    }
    sum[e / 8] = vcombine_s16(part[0], part[1]);
    vst1_s8(q + e, vmovn_s16(sum[e / 8]));
  }
  for (int h = 0; h < 2; ++h) s[h] = vaddvq_s16(vaddq_s16(sum[2 * h], sum[2 * h + 1]));
}

// Four blocks, whose scales are divided together. Where these are normal numbers, no quotient rounds to more than 127,
// and the integers need no limits; where one is not, false.
__attribute__((flatten)) bool quantize_four(const float* x, int8_t* q, float* d, int16_t* s) {
  float32x4_t max[4];
  each<4>([&](auto b) {
    float32x4_t v[8];
    load_floats<8>(x + b * kBlock, v);
    each<8>([&](auto i) { v[i] = vabsq_f32(v[i]); });
    each<4>([&](auto i) { v[i] = vmaxq_f32(v[i], v[i + 4]); });  // NaN wins, and is found below
    max[b] = vmaxq_f32(vmaxq_f32(v[0], v[1]), vmaxq_f32(v[2], v[3]));
  });
  const float32x4_t largest = vpmaxq_f32(vpmaxq_f32(max[0], max[1]), vpmaxq_f32(max[2], max[3]));
  const float32x4_t scale = vdivq_f32(largest, vdupq_n_f32(127.0f));
  const uint32x4_t above = vsubq_u32(vreinterpretq_u32_f32(scale), vdupq_n_u32(0x00800000));  // the least normal
  if (vmaxvq_u32(above) >= 0x7f000000u) return false;                                         // or infinity, or NaN
  const float32x4_t inverse = vdivq_f32(vdupq_n_f32(1.0f), scale);
  vst1q_f32(d, scale);
  int16x8_t sum[8];  // of half blocks
  each<4>([&](auto b) {
    float32x4_t v[8];
    load_floats<8>(x + b * kBlock, v);
    int16x8_t narrow[4];
    each<4>([&](auto i) {
      const int32x4_t low = vcvtnq_s32_f32(vmulq_laneq_f32(v[2 * i], inverse, b));
      const int32x4_t high = vcvtnq_s32_f32(vmulq_laneq_f32(v[2 * i + 1], inverse, b));
      narrow[i] = vuzp1q_s16(vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high));
    });
    each<2>([&](auto i) {
      const int8x16_t low = vreinterpretq_s8_s16(narrow[2 * i]), high = vreinterpretq_s8_s16(narrow[2 * i + 1]);
      vst1q_s8(q + b * kBlock + 16 * i, vuzp1q_s8(low, high));
    });
    each<2>([&](auto h) { sum[2 * b + h] = vaddq_s16(narrow[2 * h], narrow[2 * h + 1]); });
  });
  each<4>([&](auto i) { sum[i] = vpaddq_s16(sum[2 * i], sum[2 * i + 1]); });
  vst1q_s16(s, vpaddq_s16(vpaddq_s16(sum[0], sum[1]), vpaddq_s16(sum[2], sum[3])));  // at most 16 · 127
  return true;
}

void quantize(const float* x, int8_t* q, float* d, int16_t* s, int k) {
  const int blocks = k / kBlock;
  for (int b = 0; b < blocks; b += 4) {
    const int first = b + 4 <= blocks || blocks < 4 ? b : blocks - 4;  // the last four again, rather than fewer
    const int last = first + 4 < blocks ? first + 4 : blocks;
    if (last - first == 4 && quantize_four(x + first * kBlock, q + first * kBlock, d + first, s + 2 * first)) continue;
    for (int i = first; i < last; ++i) quantize_block(x + i * kBlock, q + i * kBlock, d + i, s + 2 * i);
  }
}

}  // namespace

void install_q8(Table& t) {
  t.matmul[static_cast<int>(DType::q8_0)] = matmul;
  t.dequantize[static_cast<int>(DType::q8_0)] = dequantize;
  t.dequantize_keys = dequantize_keys;
  t.quantize_q8 = quantize;
}

}  // namespace lora_edge::neon
