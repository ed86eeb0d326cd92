// Q8_0 matmul with the dot products of Armv8.2 (Cortex-A55, A75, A76 and later): sdot adds four products to each of
// four 32-bit sums, so a block's sum is exact and needs no widening.
#if !defined(__ARM_FEATURE_DOTPROD)
#error "built with dot products only"
#endif
#include "kernels/arm/q8_panel.h"
#include "kernels/arm/quant_matmul.h"
#include "kernels/peak.h"

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

// 4 x 4 groups of 4 bytes, transposed.
inline void transpose(const int32x4_t* row, int32x4_t* column) {
  const int64x2_t even01 = vreinterpretq_s64_s32(vtrn1q_s32(row[0], row[1]));
  const int64x2_t odd01 = vreinterpretq_s64_s32(vtrn2q_s32(row[0], row[1]));
  const int64x2_t even23 = vreinterpretq_s64_s32(vtrn1q_s32(row[2], row[3]));
  const int64x2_t odd23 = vreinterpretq_s64_s32(vtrn2q_s32(row[2], row[3]));
  column[0] = vreinterpretq_s32_s64(vtrn1q_s64(even01, even23));
  column[1] = vreinterpretq_s32_s64(vtrn1q_s64(odd01, odd23));
  column[2] = vreinterpretq_s32_s64(vtrn2q_s64(even01, even23));
  column[3] = vreinterpretq_s32_s64(vtrn2q_s64(odd01, odd23));
}

// More: w[e] holds the weights 4e to 4e + 3 of each of the 4 rows, against which x is taken by lane, as it lies; its
// scales are packed by fours. Live at once for 8 tokens: 8 accumulators, 8 of w, the scales, and of 4 tokens in hand 8
// of x, the scales and 4 sums.
struct DotPanel {
  static constexpr int kGroup = 1, kScales = 1;
  static constexpr size_t kTokenBytes = 2 * sizeof(float);  // tiles have at least 4 tokens, or are the last
  static constexpr int kAtOnce = 4;                         // sums in flight, for CPUs that work in order

  static void arrange(int8x16_t* w, float32x4_t*) {
    int8x16_t t[8];
    each<2>([&](auto half) {
      int32x4_t row[4], column[4];
      each<4>([&](auto r) { row[r] = vreinterpretq_s32_s8(w[2 * r + half]); });
      transpose(row, column);
      each<4>([&](auto e) { t[4 * half + e] = vreinterpretq_s8_s32(column[e]); });
    });
    each<8>([&](auto e) { w[e] = t[e]; });
  }

  // The scales of 4 tokens beside each other, block by block; a missing token's are the last one's.
  static void pack(const MatmulArgs& a, int i, int tokens, int b, int blocks, uint8_t* out) {
    const size_t n_blocks = static_cast<size_t>(a.k / kBlock), fours = static_cast<size_t>(tokens + 3) / 4;
    for (size_t f = 0; f < fours; ++f) {
      const float* d[4];
      for (int c = 0; c < 4; ++c) {
        const int token = 4 * static_cast<int>(f) + c;
        d[c] = a.xd + static_cast<size_t>(i + (token < tokens ? token : tokens - 1)) * n_blocks + b;
      }
      float* to = reinterpret_cast<float*>(out) + 4 * f;
      int e = 0;
      for (; e + 4 <= blocks; e += 4, to += 16 * fours) {
        int32x4_t row[4], column[4];
        each<4>([&](auto c) { row[c] = vreinterpretq_s32_f32(vld1q_f32(d[c] + e)); });
        transpose(row, column);
        each<4>([&](auto c) { vst1q_f32(to + 4 * fours * c, vreinterpretq_f32_s32(column[c])); });
      }
      for (; e < blocks; ++e, to += 4 * fours)
        for (int c = 0; c < 4; ++c) to[c] = d[c][e];
    }
  }

  template <int G>
  struct Tokens {
    Tokens(const MatmulArgs& a, int i, int b, const uint8_t* packed) : d(reinterpret_cast<const float*>(packed)) {
      const size_t block = static_cast<size_t>(i) * static_cast<size_t>(a.k / kBlock) + static_cast<size_t>(b);
      each<G>([&](auto c) {
        q[c] = reinterpret_cast<const uint8_t*>(a.xq + block * kBlock + c * static_cast<size_t>(a.k));
      });
    }
    const uint8_t* q[G];
    const float* d;
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
      const float32x4_t dx = vld1q_f32(x.d);
      x.d += kAtOnce;
      each<8>([&](auto e) {
        each<count>([&](auto c) { sum[c] = vdotq_laneq_s32(sum[c], w[e], v[c][e / 4], e % 4); });
        asm volatile("");  // GCC 12, which knows no latency of sdot, would finish one sum after the other
      });
      each<count>([&](auto c) {
        float32x4_t& to = acc[first + c];
        to = vfmaq_f32(to, vmulq_laneq_f32(d[0], dx, c), vcvtq_f32_s32(sum[c]));
      });
    });
  }

  static void swap(float32x4_t*) {}
};

// Smaller blocks, unpacked into scratch. For more than a few tokens w[e] holds the weights 4e to 4e + 3 of each of the
// 4 rows there too, and nothing is folded.
struct UnpackedDots {
  static constexpr int kTokens = 4, kFew = 2;

  static void arrange(int8_t (*w)[16]) {
    int8x16_t v[8];
    float32x4_t none[1];
    each<8>([&](auto e) { v[e] = vld1q_s8(w[e]); });
    DotPanel::arrange(v, none);
    each<8>([&](auto e) { vst1q_s8(w[e], v[e]); });
  }

  template <class F>
  static void dots(const Unpacked<F>& block, const int8x16_t* x, int32x4_t* half) {
    half[0] = half[1] = vdupq_n_s32(0);
    each<8>([&](auto e) {
      int32x4_t& to = half[F::kHalves && e >= 4];
      to = vdotq_laneq_s32(to, vld1q_s8(block.w[e]), x[e / 4], e % 4);
    });
  }

  template <class F>
  static void few_dots(const Unpacked<F>& block, const int8x16_t* x, int32x4_t* half) {
    int32x4_t sum[2][4];
    each<4>([&](auto r) {
      each<2>([&](auto h) {
        const int32x4_t before = F::kHalves || h == 0 ? vdupq_n_s32(0) : sum[0][r];
        sum[F::kHalves && h == 1][r] = vdotq_s32(before, vld1q_s8(block.w[2 * r + h]), x[h]);
      });
    });
    each<F::kHalves ? 2 : 1>(
        [&](auto h) { half[h] = vpaddq_s32(vpaddq_s32(sum[h][0], sum[h][1]), vpaddq_s32(sum[h][2], sum[h][3])); });
  }
};

void matmul(const MatmulArgs& a) {
  if (a.m <= DotRows::kTokens)
    rows_matmul<DotRows>(a);
  else
    panel_matmul<DotPanel>(a);
}

}  // namespace

void install_gradient(Table&);

void install(Table& t) {
  t.name = "neon_dotprod";
  t.matmul[static_cast<int>(DType::q8_0)] = matmul;
  install_unpacked<UnpackedDots>(t);
  install_gradient(t);
  t.int8_peak = int8_peak;
}

}  // namespace lora_edge::neon_dotprod
