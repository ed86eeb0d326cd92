// Q8_0 matmul with the matrix products of Armv8.6 (Neoverse V1 and N2, Cortex-A510, A710 and later): smmla multiplies
// two rows by two tokens over 8 elements, twice the work of an sdot.
#if !defined(__ARM_FEATURE_MATMUL_INT8)
#error "built with int8 matrix products only"
#endif
#include "kernels/arm/neon_common.h"
#include "kernels/peak.h"

namespace lora_edge::neon_i8mm {
namespace {

using namespace lora_edge::neon;  // NOLINT: the helpers are this file's own copy

// Below this many tokens half of each product would be wasted: the table below serves them.
constexpr int kFewTokens = 3;
void (*few)(const MatmulArgs&) = nullptr;

// A panel holds 8 rows of up to kPanelBlocks blocks, as pairs: of each block, 4 steps of 8 neighbouring weights of each
// row, then each pair's scales twice, as a product's lanes need them. 9.5 KiB.
constexpr int kPairs = 4;
constexpr int kPanelRows = 2 * kPairs;
constexpr int kPanelBlocks = 32;
struct PanelBlock {
  int8_t w[kBlock / 8][kPairs][16];
  float d[kPairs][4];
};
static_assert(sizeof(PanelBlock) * kPanelBlocks <= kScratchBytes, "a panel fits");

void pack_panel(const uint8_t* const* row, int first, int count, PanelBlock* panel) {
  for (int b = 0; b < count; ++b) {
    const size_t offset = static_cast<size_t>(first + b) * sizeof(BlockQ8_0);
    for (int p = 0; p < kPairs; ++p) {
      const uint8_t *one = row[2 * p] + offset, *two = row[2 * p + 1] + offset;
      for (int e = 0; e < kBlock / 8; ++e) {
        const size_t at = sizeof(uint16_t) + static_cast<size_t>(e) * 8;
        vst1_s8(panel[b].w[e][p], vld1_s8(reinterpret_cast<const int8_t*>(one + at)));
        vst1_s8(panel[b].w[e][p] + 8, vld1_s8(reinterpret_cast<const int8_t*>(two + at)));
      }
      uint16x4_t half = vld1_dup_u16(reinterpret_cast<const uint16_t*>(one));
      half = vld1_lane_u16(reinterpret_cast<const uint16_t*>(two), half, 1);
      half = vld1_lane_u16(reinterpret_cast<const uint16_t*>(two), half, 3);
      vst1q_f32(panel[b].d[p], vcvt_f32_f16(vreinterpret_f16_u16(half)));
    }
  }
}

inline int8x16_t low_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}
inline int8x16_t high_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

// A panel times T pairs of tokens; `tokens` says how many of them are real, the others repeat the last. Lanes of a sum:
// (token 0, row 0), (0, 1), (1, 0), (1, 1). Registers for 2: 8 float sums, 8 integer sums, 4 of x, 4 of w, 2 of dx.
template <int T>
void panel_tile(const PanelBlock* panel, int blocks, bool first, const int8_t* xq, size_t ldq, const float* xd,
                size_t ldd, float* y, size_t ldy, int tokens, int count) {
  const int8_t* x[2 * T];
  const float* dx[2 * T];
  for (int c = 0; c < 2 * T; ++c) {
    const size_t row = static_cast<size_t>(c < tokens ? c : tokens - 1);
    x[c] = xq + row * ldq;
    dx[c] = xd + row * ldd;
  }
  float32x4_t acc[T][kPairs];
  float edge[2 * T][kPanelRows] = {};
  if (!first)
    for (int c = 0; c < tokens; ++c)
      for (int r = 0; r < count; ++r) edge[c][r] = y[static_cast<size_t>(c) * ldy + r];
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < kPairs; ++p)
      acc[t][p] = vcombine_f32(vld1_f32(edge[2 * t] + 2 * p), vld1_f32(edge[2 * t + 1] + 2 * p));
  for (int b = 0; b < blocks; ++b) {
    int32x4_t sum[T][kPairs];
    for (int t = 0; t < T; ++t)
      for (int p = 0; p < kPairs; ++p) sum[t][p] = vdupq_n_s32(0);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      int8x16_t low[T], high[T];
      for (int t = 0; t < T; ++t) {
        const int8x16_t x0 = vld1q_s8(x[2 * t] + b * kBlock + half * 16);
        const int8x16_t x1 = vld1q_s8(x[2 * t + 1] + b * kBlock + half * 16);
        low[t] = low_halves(x0, x1);
        high[t] = high_halves(x0, x1);
      }
#pragma GCC unroll 4
      for (int p = 0; p < kPairs; ++p) {
        const int8x16_t w0 = vld1q_s8(panel[b].w[2 * half][p]), w1 = vld1q_s8(panel[b].w[2 * half + 1][p]);
        for (int t = 0; t < T; ++t) sum[t][p] = vmmlaq_s32(vmmlaq_s32(sum[t][p], low[t], w0), high[t], w1);
      }
    }
    for (int t = 0; t < T; ++t) {
      const float32x4_t scale = vcombine_f32(vdup_n_f32(dx[2 * t][b]), vdup_n_f32(dx[2 * t + 1][b]));
      for (int p = 0; p < kPairs; ++p)
        acc[t][p] = vfmaq_f32(acc[t][p], vmulq_f32(vld1q_f32(panel[b].d[p]), scale), vcvtq_f32_s32(sum[t][p]));
    }
  }
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < kPairs; ++p) {
      vst1_f32(edge[2 * t] + 2 * p, vget_low_f32(acc[t][p]));
      vst1_f32(edge[2 * t + 1] + 2 * p, vget_high_f32(acc[t][p]));
    }
  for (int c = 0; c < tokens; ++c)
    for (int r = 0; r < count; ++r) y[static_cast<size_t>(c) * ldy + r] = edge[c][r];
}

void matmul(const MatmulArgs& a) {
  if (a.m <= kFewTokens) return few(a);
  PanelBlock* panel = static_cast<PanelBlock*>(a.scratch);
  const int blocks = a.k / kBlock;
  const size_t ldq = static_cast<size_t>(a.k), ldd = static_cast<size_t>(blocks);
  for (int j = a.n0; j < a.n1; j += kPanelRows) {
    const int count = a.n1 - j < kPanelRows ? a.n1 - j : kPanelRows;
    const uint8_t* row[kPanelRows];
    for (int r = 0; r < kPanelRows; ++r)  // past the last output, that one again
      row[r] = static_cast<const uint8_t*>(a.w) + static_cast<size_t>(j + (r < count ? r : count - 1)) * a.w_stride;
    for (int b = 0; b < blocks; b += kPanelBlocks) {  // y holds the sums from one range of blocks to the next
      const int depth = blocks - b < kPanelBlocks ? blocks - b : kPanelBlocks;
      pack_panel(row, b, depth, panel);
      for (int i = 0; i < a.m; i += 4) {
        const int tokens = a.m - i < 4 ? a.m - i : 4;
        const size_t t = static_cast<size_t>(i);
        (tokens > 2 ? panel_tile<2> : panel_tile<1>)(panel, depth, b == 0, a.xq + t * ldq + b * kBlock, ldq,
                                                     a.xd + t * ldd + b, ldd, a.y + t * a.ldy + j, a.ldy, tokens,
                                                     count);
      }
    }
  }
}

}  // namespace

void install(Table& t) {
  t.name = "neon_i8mm";
  few = t.matmul[static_cast<int>(DType::q8_0)];
  t.matmul[static_cast<int>(DType::q8_0)] = matmul;
  t.int8_peak = int8_peak;
}

}  // namespace lora_edge::neon_i8mm
