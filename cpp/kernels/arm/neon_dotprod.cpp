// Q8_0 matmul with the dot products of Armv8.2 (Cortex-A55, A75, A76 and later): sdot adds four products to each of
// four 32-bit sums, so a block's sum is exact and needs no widening.
#if !defined(__ARM_FEATURE_DOTPROD)
#error "built with dot products only"
#endif
#include "kernels/arm/q8_panel.h"

namespace lora_edge::neon_dotprod {
namespace {

using namespace lora_edge::neon;  // NOLINT: the helpers are this file's own copy

// Few tokens, straight from the file. Live at once for 3: 12 running sums, 3 totals, 3 accumulators, 6 of x, 2 of w,
// the scales: 27 of 32 registers.
struct DotRows {
  static constexpr int kTokens = 3, kSteps = 2;
  static constexpr bool kRunning = true;
  struct Part {};
  template <int i>
  static void step(const int8x16_t* w, const int8x16_t* x, Part&, int32x4_t& sum) {
    sum = vdotq_s32(sum, w[i], x[i]);
  }
};

// More: w[e] holds the weights 4e to 4e + 3 of each of the 4 rows, against which x is taken by lane, as it lies. Live
// at once for 8 tokens: 8 accumulators, 8 of w, the scales, and for each token in hand 2 of x, its scale and its sum.
struct DotPanel {
  static constexpr int kGroup = 1, kScales = 1;
  static constexpr size_t kTokenBytes = 0;
  static constexpr int kAtOnce = 4;  // sums in flight, for CPUs that work in order

  static void arrange(int8x16_t* w, float32x4_t*) {
    int8x16_t t[8];
    each<2>([&](auto half) {  // 4 x 4 groups of 4 bytes, transposed
      int32x4_t row[4];
      each<4>([&](auto r) { row[r] = vreinterpretq_s32_s8(w[2 * r + half]); });
      const int64x2_t even01 = vreinterpretq_s64_s32(vtrn1q_s32(row[0], row[1]));
      const int64x2_t odd01 = vreinterpretq_s64_s32(vtrn2q_s32(row[0], row[1]));
      const int64x2_t even23 = vreinterpretq_s64_s32(vtrn1q_s32(row[2], row[3]));
      const int64x2_t odd23 = vreinterpretq_s64_s32(vtrn2q_s32(row[2], row[3]));
      t[4 * half] = vreinterpretq_s8_s64(vtrn1q_s64(even01, even23));
      t[4 * half + 1] = vreinterpretq_s8_s64(vtrn1q_s64(odd01, odd23));
      t[4 * half + 2] = vreinterpretq_s8_s64(vtrn2q_s64(even01, even23));
      t[4 * half + 3] = vreinterpretq_s8_s64(vtrn2q_s64(odd01, odd23));
    });
    each<8>([&](auto e) { w[e] = t[e]; });
  }

  static void pack(const MatmulArgs&, int, int, int, int, uint8_t*) {}

  template <int G>
  struct Tokens {
    Tokens(const MatmulArgs& a, int i, int b, const uint8_t*) {
      const size_t block = static_cast<size_t>(i) * static_cast<size_t>(a.k / kBlock) + static_cast<size_t>(b);
      each<G>([&](auto c) {
        q[c] = reinterpret_cast<const uint8_t*>(a.xq + block * kBlock + c * static_cast<size_t>(a.k));
        d[c] = a.xd + block + c * static_cast<size_t>(a.k / kBlock);
      });
    }
    const uint8_t* q[G];
    const float* d[G];
  };

  template <int G>
  static void multiply(const int8x16_t* w, const float32x4_t* d, Tokens<G>& x, float32x4_t* acc) {
    each<(G + kAtOnce - 1) / kAtOnce>([&](auto step) {
      constexpr int first = step * kAtOnce, count = G - first < kAtOnce ? G - first : kAtOnce;
      int8x16_t v[count][2];
      int32x4_t sum[count];
      each<count>([&](auto c) {
        take_pair(x.q[first + c], v[c][0], v[c][1]);
        sum[c] = vdupq_n_s32(0);
      });
      each<8>([&](auto e) {
        each<count>([&](auto c) { sum[c] = vdotq_laneq_s32(sum[c], w[e], v[c][e / 4], e % 4); });
        asm volatile("");  // GCC 12, which knows no latency of sdot, would finish one sum after the other
      });
      each<count>([&](auto c) {
        float32x4_t& to = acc[first + c];
        to = vfmaq_f32(to, vmulq_n_f32(d[0], *x.d[first + c]++), vcvtq_f32_s32(sum[c]));
      });
    });
  }

  static void swap(float32x4_t*) {}
};

void matmul(const MatmulArgs& a) {
  if (a.m <= DotRows::kTokens)
    rows_matmul<DotRows>(a);
  else
    panel_matmul<DotPanel>(a);
}

}  // namespace

void install(Table& t) {
  t.name = "neon_dotprod";
  t.matmul[static_cast<int>(DType::q8_0)] = matmul;
}

}  // namespace lora_edge::neon_dotprod
