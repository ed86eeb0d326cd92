// The gradient of a linear's input with dot products: numbers of 16 bits are two signed bytes, 256 · upper + lower, so
// two dot products make 16 multiply-adds, twice as many as of floats.
#if !defined(__ARM_FEATURE_DOTPROD)
#error "built with dot products only"
#endif
#include "kernels/arm/gradient_span.h"

namespace lora_edge::neon_dotprod {
namespace {

using namespace lora_edge::neon;  // NOLINT: the helpers are this file's own copy

// Live at once: 4 rows x 2 of columns x 2 sums, 16 elements of each row's uppers or lowers, 2 of weights.
struct TwoBytes {
  static constexpr int kRows = 4, kColumns = 8, kStep = 16, kGroup = 4;

  struct Panel {
    alignas(16) int8_t w[kGradientSpan / 4][kBlock][4];  // 4 rows of a column beside each other
    void pack(int j, const int8x16_t (*row)[2]) {
      each<2>([&](auto h) {
        const auto zip = [](int8x16_t a, int8x16_t b, bool high) {
          return vreinterpretq_s16_s8(high ? vzip2q_s8(a, b) : vzip1q_s8(a, b));
        };
        each<2>([&](auto part) {
          const int16x8_t first = zip(row[0][h], row[1][h], part), second = zip(row[2][h], row[3][h], part);
          int8_t* to = w[j / 4][16 * h + 8 * part];
          vst1q_s8(to, vreinterpretq_s8_s16(vzip1q_s16(first, second)));
          vst1q_s8(to + 16, vreinterpretq_s8_s16(vzip2q_s16(first, second)));
        });
      });
    }
  };

  struct Rows {
    alignas(16) int8_t upper[kRows][kGradientSpan], lower[kRows][kGradientSpan];
    void set(int r, int e, const int16_t* dy, const int16_t* scales) {
      int16x8_t p[2];
      each<2>([&](auto h) { p[h] = vqrdmulhq_s16(vld1q_s16(dy + 8 * h), vld1q_s16(scales + 8 * h)); });
      vst1q_s8(lower[r] + e, vmovn_high_s16(vmovn_s16(p[0]), p[1]));
      vst1q_s8(upper[r] + e, vrshrn_high_n_s16(vrshrn_n_s16(p[0], 8), p[1], 8));
    }
  };

  template <int n>
  static void tile(const Panel& panel, int column, const Rows& dy, int depth, const float* scale, float* dx,
                   size_t lddx) {
    int32x4_t sum[n][2], high[n][2];
    each<n>([&](auto i) { each<2>([&](auto v) { sum[i][v] = high[i][v] = vdupq_n_s32(0); }); });
    const int8_t* w = panel.w[0][column];
    for (int e = 0; e < depth; e += kStep) {
      int8x16_t lower[n], upper[n];
      each<n>([&](auto i) {
        lower[i] = vld1q_s8(dy.lower[i] + e);
        upper[i] = vld1q_s8(dy.upper[i] + e);
      });
      each<kStep / 4>([&](auto j) {
        int8x16_t v[2];
        load_pair<4 * kBlock * j>(w, v[0], v[1]);
        each<n>([&](auto i) {
          each<2>([&](auto h) {
            sum[i][h] = vdotq_laneq_s32(sum[i][h], v[h], lower[i], j);
            high[i][h] = vdotq_laneq_s32(high[i][h], v[h], upper[i], j);
          });
        });
        asm volatile("");  // GCC 12, which knows no latency of sdot, would finish one sum after the other
      });
      w += kStep * kBlock;
    }
    each<n>([&](auto i) { each<2>([&](auto h) { sum[i][h] = vaddq_s32(sum[i][h], vshlq_n_s32(high[i][h], 8)); }); });
    finish<n, 2>(sum, scale, dx, lddx);
  }
};

}  // namespace

void install_gradient(Table& t) { neon::install_gradient<TwoBytes>(t); }

}  // namespace lora_edge::neon_dotprod
