// Q8_0 weights: matmul by widening multiplies, and conversion to and from the format.
#include "kernels/arm/neon_common.h"

namespace lora_edge::neon {
namespace {

// Four exact sums of products over 32 bytes. A 16-bit lane holds two products: at most 2 · 128 · 127 = 32512.
inline int32x4_t dot_block(int8x16_t w0, int8x16_t w1, int8x16_t x0, int8x16_t x1) {
  const int16x8_t low = vmlal_high_s8(vmull_s8(vget_low_s8(w0), vget_low_s8(x0)), w0, x0);
  const int16x8_t high = vmlal_high_s8(vmull_s8(vget_low_s8(w1), vget_low_s8(x1)), w1, x1);
  return vpadalq_s16(vpaddlq_s16(low), high);
}

// 4 outputs (the lanes of y[c]) × C rows. Live at once for C = 4: 8 registers of x, 2 of w, 12 partial sums (rows of W
// are folded in pairs), 4 accumulators, the scales and two temporaries: 29 of 32.
template <int C>
void tile(const uint8_t* const* w, const int8_t* xq, const float* xd, int blocks, float32x4_t* y) {
  const size_t ldx = static_cast<size_t>(blocks) * kBlock;
  const uint8_t* row[4] = {w[0], w[1], w[2], w[3]};
  float32x4_t acc[C];
  for (int c = 0; c < C; ++c) acc[c] = vdupq_n_f32(0.0f);
  for (int b = 0; b < blocks; ++b) {
    uint16x4_t halves = vdup_n_u16(0);  // the scales of the four rows
    int32x4_t sums[C][4];
    int8x16_t x0[C], x1[C];
    for (int c = 0; c < C; ++c) {
      x0[c] = vld1q_s8(xq + c * ldx + b * kBlock);
      x1[c] = vld1q_s8(xq + c * ldx + b * kBlock + 16);
    }
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const int8_t* qs = reinterpret_cast<const int8_t*>(row[r] + sizeof(uint16_t));
      const int8x16_t w0 = vld1q_s8(qs), w1 = vld1q_s8(qs + 16);
      for (int c = 0; c < C; ++c) sums[c][r] = dot_block(w0, w1, x0[c], x1[c]);
    }
    halves = vld1_lane_u16(reinterpret_cast<const uint16_t*>(row[0]), halves, 0);
    halves = vld1_lane_u16(reinterpret_cast<const uint16_t*>(row[1]), halves, 1);
    halves = vld1_lane_u16(reinterpret_cast<const uint16_t*>(row[2]), halves, 2);
    halves = vld1_lane_u16(reinterpret_cast<const uint16_t*>(row[3]), halves, 3);
    for (int r = 0; r < 4; ++r) row[r] += sizeof(BlockQ8_0);
    const float32x4_t dw = vcvt_f32_f16(vreinterpret_f16_u16(halves));
    for (int c = 0; c < C; ++c) {
      const int32x4_t dots = vpaddq_s32(vpaddq_s32(sums[c][0], sums[c][1]), vpaddq_s32(sums[c][2], sums[c][3]));
      const float dx = xd[static_cast<size_t>(c) * blocks + b];
      acc[c] = vfmaq_f32(acc[c], vmulq_n_f32(dw, dx), vcvtq_f32_s32(dots));
    }
  }
  for (int c = 0; c < C; ++c) y[c] = acc[c];
}

constexpr decltype(&tile<1>) kTiles[] = {tile<1>, tile<2>, tile<3>, tile<4>};

void matmul(const MatmulArgs& a) {
  const int blocks = a.k / kBlock;
  const int panel = panel_rows(a.k, 4);
  for (int first = 0; first < a.m; first += panel) {
    const int last = first + panel < a.m ? first + panel : a.m;
    for (int j = a.n0; j < a.n1; j += 4) {
      const uint8_t* w[4];  // past the last output, that one again
      for (int r = 0; r < 4; ++r)
        w[r] = static_cast<const uint8_t*>(a.w) + (j + r < a.n1 ? j + r : a.n1 - 1) * a.w_stride;
      for (int i = first; i < last; i += 4) {
        const int8_t* xq = a.xq + static_cast<size_t>(i) * a.k;
        const float* xd = a.xd + static_cast<size_t>(i) * blocks;
        const int rows = last - i < 4 ? last - i : 4;
        float32x4_t y[4];
        kTiles[rows - 1](w, xq, xd, blocks, y);
        for (int c = 0; c < rows; ++c) store_some(a.y + (i + c) * a.ldy + j, y[c], a.n1 - j);
      }
    }
  }
}

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

void quantize(const float* x, int8_t* q, float* d, int32_t* s, int k) {
  const float32x4_t high = vdupq_n_f32(127.0f), low = vdupq_n_f32(-127.0f);
  const uint32x4_t infinity = vdupq_n_u32(0x7f800000u);
  for (int b = 0; b < k / kBlock; ++b, x += kBlock, q += kBlock) {
    uint32x4_t max = vdupq_n_u32(0);  // the bits of floats >= 0, which order as they do
    for (int e = 0; e < kBlock; e += 4) {
      const uint32x4_t abs = vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + e)));
      max = vmaxq_u32(max, vandq_u32(abs, vcleq_u32(abs, infinity)));  // a NaN counts as 0
    }
    d[b] = vget_lane_f32(vreinterpret_f32_u32(vdup_n_u32(vmaxvq_u32(max))), 0) / 127.0f;
    const float inverse = d[b] != 0.0f ? 1.0f / d[b] : 0.0f;
    int16x8_t total = vdupq_n_s16(0);
    for (int e = 0; e < kBlock; e += 8) {
      int16x4_t part[2];
      for (int h = 0; h < 2; ++h) {
        float32x4_t v = vrndnq_f32(vmulq_n_f32(vld1q_f32(x + e + 4 * h), inverse));
        v = vbslq_f32(vcgtq_f32(v, high), high, v);
        v = vbslq_f32(vcgtq_f32(v, low), v, low);  // also NaN
        part[h] = vmovn_s32(vcvtq_s32_f32(v));
      }
      total = vaddq_s16(total, vcombine_s16(part[0], part[1]));
      vst1_s8(q + e, vmovn_s16(vcombine_s16(part[0], part[1])));
    }
    s[b] = vaddlvq_s16(total);
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
