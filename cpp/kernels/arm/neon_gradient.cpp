// The gradient of a linear's input by widening multiplies of 16 bits: four multiply-adds each, as of floats, but twice
// the weights and gradients to a register, and the weights needn't become floats.
#include "kernels/arm/gradient_span.h"

namespace lora_edge::neon {
namespace {

// Live at once: 4 rows x 4 sums, 8 elements of each row, 2 of weights.
struct WideningWords {
  static constexpr int kRows = 4, kColumns = 16, kStep = 8, kGroup = 1;

  struct Panel {
    alignas(16) int16_t w[kGradientSpan][kBlock];
    void pack(int j, const int8x16_t (*row)[2]) {
      each<2>([&](auto h) {
        vst1q_s16(w[j] + 16 * h, vmovl_s8(vget_low_s8(row[0][h])));
        vst1q_s16(w[j] + 16 * h + 8, vmovl_high_s8(row[0][h]));
      });
    }
  };

  struct Rows {
    alignas(16) int16_t q[kRows][kGradientSpan];
    void set(int r, int e, const int16_t* dy, const int16_t* scales) {
      vst1q_s16(q[r] + e, vqrdmulhq_s16(vld1q_s16(dy), vld1q_s16(scales)));
    }
  };

  template <int n>
  static void tile(const Panel& panel, int column, const Rows& dy, int depth, const float* scale, float* dx,
                   size_t lddx) {
    int32x4_t sum[n][4];
    each<n>([&](auto i) { each<4>([&](auto v) { sum[i][v] = vdupq_n_s32(0); }); });
    const int16_t* w = panel.w[0] + column;
    for (int e = 0; e < depth; e += kStep) {
      int16x8_t q[n];
      each<n>([&](auto i) { q[i] = vld1q_s16(dy.q[i] + e); });
      each<kStep>([&](auto j) {
        int8x16_t low, high;
        load_pair<2 * kBlock * j>(w, low, high);
        const int16x8_t v[2] = {vreinterpretq_s16_s8(low), vreinterpretq_s16_s8(high)};
        each<n>([&](auto i) {
          each<2>([&](auto h) {
            sum[i][2 * h] = vmlal_laneq_s16(sum[i][2 * h], vget_low_s16(v[h]), q[i], j);
            sum[i][2 * h + 1] = vmlal_high_laneq_s16(sum[i][2 * h + 1], v[h], q[i], j);
          });
        });
      });
      w += kStep * kBlock;
    }
    finish<n, 4>(sum, scale, dx, lddx);
  }
};

}  // namespace

void install_gradient(Table& t) {
  install_gradient<WideningWords>(t);
  t.quantize_q16 = quantize_q16;
}

}  // namespace lora_edge::neon
