// Q8_0 matmul with the dot products of Armv8.2 (Cortex-A55, A75, A76 and later): sdot adds four products to each of
// four 32-bit sums, so a block's sum is exact and needs no widening.
#if !defined(__ARM_FEATURE_DOTPROD)
#error "built with dot products only"
#endif
#include "kernels/arm/neon_common.h"
#include "kernels/peak.h"

namespace lora_edge::neon_dotprod {
namespace {

using namespace lora_edge::neon;  // NOLINT: the helpers are this file's own copy

// Pointers to the rows [j, j + kRows) of W; past the last output, that one again.
template <int kRows>
void row_pointers(const MatmulArgs& a, int j, const uint8_t** row) {
  for (int r = 0; r < kRows; ++r)
    row[r] = static_cast<const uint8_t*>(a.w) + static_cast<size_t>(j + r < a.n1 ? j + r : a.n1 - 1) * a.w_stride;
}

// The scales of four blocks as floats, one per lane.
inline float32x4_t load_scales(const uint8_t* const* row, size_t offset) {
  uint16x4_t half = vld1_dup_u16(reinterpret_cast<const uint16_t*>(row[0] + offset));
  half = vld1_lane_u16(reinterpret_cast<const uint16_t*>(row[1] + offset), half, 1);
  half = vld1_lane_u16(reinterpret_cast<const uint16_t*>(row[2] + offset), half, 2);
  half = vld1_lane_u16(reinterpret_cast<const uint16_t*>(row[3] + offset), half, 3);
  return vcvt_f32_f16(vreinterpret_f16_u16(half));
}

// Few tokens: 4 rows of W straight from the file, two sdots and a share of three pairwise additions for each row and
// token. Live at once for 3 tokens: 6 of x, 2 of w, 12 sums, 3 accumulators, the scales.
constexpr int kFewTokens = 3;
template <int C>
void few_tile(const uint8_t* const* row, const int8_t* xq, const float* xd, int blocks, float32x4_t* y) {
  const size_t ldx = static_cast<size_t>(blocks) * kBlock;
  float32x4_t acc[C];
  for (int c = 0; c < C; ++c) acc[c] = vdupq_n_f32(0.0f);
  for (int b = 0; b < blocks; ++b) {
    const size_t offset = static_cast<size_t>(b) * sizeof(BlockQ8_0);
    int32x4_t sums[C][4];
    int8x16_t x0[C], x1[C];
    for (int c = 0; c < C; ++c) {
      x0[c] = vld1q_s8(xq + c * ldx + b * kBlock);
      x1[c] = vld1q_s8(xq + c * ldx + b * kBlock + 16);
    }
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      const int8_t* qs = reinterpret_cast<const int8_t*>(row[r] + offset + sizeof(uint16_t));
      const int8x16_t w0 = vld1q_s8(qs), w1 = vld1q_s8(qs + 16);
      for (int c = 0; c < C; ++c) sums[c][r] = vdotq_s32(vdotq_s32(vdupq_n_s32(0), w0, x0[c]), w1, x1[c]);
    }
    const float32x4_t dw = load_scales(row, offset);
    for (int c = 0; c < C; ++c) {
      const int32x4_t dots = vpaddq_s32(vpaddq_s32(sums[c][0], sums[c][1]), vpaddq_s32(sums[c][2], sums[c][3]));
      acc[c] = vfmaq_f32(acc[c], vmulq_n_f32(dw, xd[static_cast<size_t>(c) * blocks + b]), vcvtq_f32_s32(dots));
    }
  }
  for (int c = 0; c < C; ++c) y[c] = acc[c];
}

void matmul_few(const MatmulArgs& a) {
  constexpr decltype(&few_tile<1>) kTiles[] = {few_tile<1>, few_tile<2>, few_tile<3>};
  for (int j = a.n0; j < a.n1; j += 4) {
    const uint8_t* row[4];
    row_pointers<4>(a, j, row);
    float32x4_t y[kFewTokens];
    kTiles[a.m - 1](row, a.xq, a.xd, a.k / kBlock, y);
    for (int i = 0; i < a.m; ++i) store_some(a.y + static_cast<size_t>(i) * a.ldy + j, y[i], a.n1 - j);
  }
}

// A panel holds 8 rows of up to kPanelBlocks blocks so that lanes are rows: of each block, 8 steps of 4 neighbouring
// weights of each row, then the 8 scales. 9 KiB: it stays in a 32 KiB L1 beside 4 tokens' x.
constexpr int kPanelRows = 8;
constexpr int kPanelBlocks = 32;
struct PanelBlock {
  int8_t w[kBlock / 4][kPanelRows][4];
  float d[kPanelRows];
};
static_assert(sizeof(PanelBlock) * kPanelBlocks <= kScratchBytes, "a panel fits");

void pack_panel(const uint8_t* const* row, int first, int count, PanelBlock* panel) {
  for (int b = 0; b < count; ++b) {
    const size_t offset = static_cast<size_t>(first + b) * sizeof(BlockQ8_0);
    for (int h = 0; h < kPanelRows; h += 4) {
      for (int half = 0; half < 2; ++half) {  // 4 x 4 groups of 4 bytes, transposed
        int32x4_t w[4];
        for (int r = 0; r < 4; ++r)
          w[r] = vreinterpretq_s32_s8(vld1q_s8(reinterpret_cast<const int8_t*>(row[h + r] + offset + sizeof(uint16_t) +
                                                                               static_cast<size_t>(half) * 16)));
        const int32x4x2_t t01 = vtrnq_s32(w[0], w[1]), t23 = vtrnq_s32(w[2], w[3]);
        int8_t(*out)[kPanelRows][4] = panel[b].w + half * 4;
        const auto put = [&](int e, int32x2_t low, int32x2_t high) {
          vst1q_s8(out[e][h], vreinterpretq_s8_s32(vcombine_s32(low, high)));
        };
        put(0, vget_low_s32(t01.val[0]), vget_low_s32(t23.val[0]));
        put(1, vget_low_s32(t01.val[1]), vget_low_s32(t23.val[1]));
        put(2, vget_high_s32(t01.val[0]), vget_high_s32(t23.val[0]));
        put(3, vget_high_s32(t01.val[1]), vget_high_s32(t23.val[1]));
      }
      vst1q_f32(panel[b].d + h, load_scales(row + h, offset));
    }
  }
}

// Adds the products of 16 of x with steps 0-3 of `w`, for 8 rows.
inline void dot16_step(int32x4_t* sum, const int8_t (*w)[kPanelRows][4], int8x16_t x) {
  sum[0] = vdotq_laneq_s32(sum[0], vld1q_s8(w[0][0]), x, 0);
  sum[1] = vdotq_laneq_s32(sum[1], vld1q_s8(w[0][4]), x, 0);
  sum[0] = vdotq_laneq_s32(sum[0], vld1q_s8(w[1][0]), x, 1);
  sum[1] = vdotq_laneq_s32(sum[1], vld1q_s8(w[1][4]), x, 1);
  sum[0] = vdotq_laneq_s32(sum[0], vld1q_s8(w[2][0]), x, 2);
  sum[1] = vdotq_laneq_s32(sum[1], vld1q_s8(w[2][4]), x, 2);
  sum[0] = vdotq_laneq_s32(sum[0], vld1q_s8(w[3][0]), x, 3);
  sum[1] = vdotq_laneq_s32(sum[1], vld1q_s8(w[3][4]), x, 3);
}

// A panel times C tokens. Registers for 4: 8 float sums, 8 integer sums, 4 of x, 2 of w, scales: 24 of 32. The compiler
// shares the loads of w between the tokens.
template <int C>
void panel_tile(const PanelBlock* panel, int blocks, bool first, const int8_t* xq, size_t ldq, const float* xd,
                size_t ldd, float* y, size_t ldy, int count) {
  float32x4_t acc[C][2];
  for (int c = 0; c < C; ++c)
    for (int v = 0; v < 2; ++v)
      acc[c][v] = first || count <= 4 * v
                      ? vdupq_n_f32(0.0f)
                      : load_some<DType::f32>(y + static_cast<size_t>(c) * ldy + 4 * v, count - 4 * v);
  for (int b = 0; b < blocks; ++b) {
    int32x4_t sum[C][2];
    for (int c = 0; c < C; ++c) sum[c][0] = sum[c][1] = vdupq_n_s32(0);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half)
      for (int c = 0; c < C; ++c)
        dot16_step(sum[c], panel[b].w + half * 4, vld1q_s8(xq + static_cast<size_t>(c) * ldq + b * kBlock + half * 16));
    for (int c = 0; c < C; ++c) {
      const float dx = xd[static_cast<size_t>(c) * ldd + static_cast<size_t>(b)];
      for (int v = 0; v < 2; ++v)
        acc[c][v] = vfmaq_f32(acc[c][v], vmulq_n_f32(vld1q_f32(panel[b].d + 4 * v), dx), vcvtq_f32_s32(sum[c][v]));
    }
  }
  for (int c = 0; c < C; ++c)
    for (int v = 0; v < 2; ++v)
      if (count > 4 * v) store_some(y + static_cast<size_t>(c) * ldy + 4 * v, acc[c][v], count - 4 * v);
}

void matmul(const MatmulArgs& a) {
  if (a.m <= kFewTokens) return matmul_few(a);
  constexpr decltype(&panel_tile<4>) kTiles[] = {panel_tile<1>, panel_tile<2>, panel_tile<3>, panel_tile<4>};
  PanelBlock* panel = static_cast<PanelBlock*>(a.scratch);
  const int blocks = a.k / kBlock;
  const size_t ldq = static_cast<size_t>(a.k), ldd = static_cast<size_t>(blocks);
  for (int j = a.n0; j < a.n1; j += kPanelRows) {
    const int count = a.n1 - j < kPanelRows ? a.n1 - j : kPanelRows;
    const uint8_t* row[kPanelRows];
    row_pointers<kPanelRows>(a, j, row);
    for (int b = 0; b < blocks; b += kPanelBlocks) {  // y holds the sums from one range of blocks to the next
      const int depth = blocks - b < kPanelBlocks ? blocks - b : kPanelBlocks;
      pack_panel(row, b, depth, panel);
      for (int i = 0; i < a.m; i += 4) {
        const int tokens = a.m - i < 4 ? a.m - i : 4;
        const size_t t = static_cast<size_t>(i);
        kTiles[tokens - 1](panel, depth, b == 0, a.xq + t * ldq + b * kBlock, ldq, a.xd + t * ldd + b, ldd,
                           a.y + t * a.ldy + j, a.ldy, count);
      }
    }
  }
}

}  // namespace

void install(Table& t) {
  t.name = "neon_dotprod";
  t.matmul[static_cast<int>(DType::q8_0)] = matmul;
  t.int8_peak = int8_peak;
}

}  // namespace lora_edge::neon_dotprod
