// Weights in blocks of 2 to 6 bits by widening multiplies, and as floats.
#include "kernels/arm/quant_matmul.h"

namespace lora_edge::neon {
namespace {

// A 16-bit lane holds four products of weights up to 63 (4 · 63 · 127 = 32004), or two of any bytes.
struct WideningDots {
  static constexpr int kTokens = 3, kFew = 1 << 30;
  static void arrange(int8_t (*)[16]) {}

  template <class F>
  static void few_dots(const Unpacked<F>& block, const int8x16_t* x, int32x4_t* half) {
    int32x4_t sum[2][4];
    each<4>([&](auto r) {
      const int8x16_t w[2] = {vld1q_s8(block.w[2 * r]), vld1q_s8(block.w[2 * r + 1])};
      int16x8_t part = vmlal_high_s8(vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[0])), w[0], x[0]);
      if constexpr (F::kHalves || F::kWide) {
        sum[0][r] = vpaddlq_s16(part);
        part = vmull_s8(vget_low_s8(w[1]), vget_low_s8(x[1]));
      } else {
        part = vmlal_s8(part, vget_low_s8(w[1]), vget_low_s8(x[1]));
      }
      part = vmlal_high_s8(part, w[1], x[1]);
      if constexpr (F::kHalves)
        sum[1][r] = vpaddlq_s16(part);
      else
        sum[0][r] = F::kWide ? vpadalq_s16(sum[0][r], part) : vpaddlq_s16(part);
    });
    each<F::kHalves ? 2 : 1>(
        [&](auto h) { half[h] = vpaddq_s32(vpaddq_s32(sum[h][0], sum[h][1]), vpaddq_s32(sum[h][2], sum[h][3])); });
  }
  template <class F>
  static void dots(const Unpacked<F>& block, const int8x16_t* x, int32x4_t* half) {
    few_dots<F>(block, x, half);
  }
};

// (d · scale) · q + min, rounded three times: see ref_quants.cpp.
template <class F>
void dequantize(const void* w, float* out, int k) {
  for (int b = 0; b < k / kBlock; b += F::kBlocks) {
    const uint8_t* p = static_cast<const uint8_t*>(w) + static_cast<size_t>(b / F::kBlocks) * F::kBytes;
    const uint8_t* const row[4] = {p, p, p, p};
    Unpacked<F> blocks[F::kBlocks];
    F::unpack(row, 0, blocks);
    for (const Unpacked<F>& block : blocks)
      each<2>([&](auto h) {
        float32x4_t scale = vld1q_f32(block.d);
        if constexpr (F::kHalves) scale = vmulq_f32(scale, vcvtq_f32_s32(vld1q_s32(block.scale[h])));
        const int8x16_t q = vsubq_s8(vld1q_s8(block.w[h]), vdupq_n_s8(F::kOffset));
        const int16x8_t eight[2] = {vmovl_s8(vget_low_s8(q)), vmovl_high_s8(q)};
        each<4>([&](auto e) {
          const int32x4_t four = e % 2 ? vmovl_high_s16(eight[e / 2]) : vmovl_s16(vget_low_s16(eight[e / 2]));
          float32x4_t value = vmulq_f32(scale, vcvtq_f32_s32(four));
          if constexpr (F::kMins > 0) value = vaddq_f32(value, vld1q_f32(block.min[F::kMins > 1 ? h : 0]));
          vst1q_f32(out + 4 * e, value);
        });
        out += 16;
      });
  }
}

}  // namespace

void install_quants(Table& t) {
  install_unpacked<WideningDots>(t);
  each_format([&](DType type, auto f) { t.dequantize[static_cast<int>(type)] = dequantize<decltype(f)>; });
}

}  // namespace lora_edge::neon
