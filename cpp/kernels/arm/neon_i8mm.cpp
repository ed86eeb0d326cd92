// Q8_0 matmul with the matrix products of Armv8.6 (Neoverse V1 and N2, Cortex-A510, A710 and later): smmla multiplies
// two tokens by two rows over 8 elements, twice the work of an sdot.
#if !defined(__ARM_FEATURE_MATMUL_INT8)
#error "built with int8 matrix products only"
#endif
#include "kernels/arm/q8_panel.h"
#include "kernels/peak.h"

namespace lora_edge::neon_i8mm {
namespace {

using namespace lora_edge::neon;  // NOLINT: the helpers are this file's own copy

void (*one_token)(const MatmulArgs&) = nullptr;  // half of each product would be wasted: the table below serves it

// Low and high halves of two registers.
inline int8x16_t low_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}
inline int8x16_t high_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

// Rows and tokens in pairs: w[4p + e] holds the weights 8e to 8e + 7 of row 2p, then of row 2p + 1, and so do the
// tokens. A packed pair of tokens is its scales twice, as a product's lanes need them, then its 64 bytes. Lanes of an
// accumulator: (token 0, row 0), (0, 1), (1, 0), (1, 1). Live at once for 8 tokens: 8 accumulators, 8 of w, 2 of
// scales, and for each pair in hand 4 of x, its scales and 2 sums.
struct PairPanel {
  static constexpr int kGroup = 2, kScales = 2;
  static constexpr size_t kTokenBytes = 2 * sizeof(float) + kBlock;
  static constexpr int kAtOnce = 2;  // pairs in flight, for CPUs that work in order

  static void arrange(int8x16_t* w, float32x4_t* d) {
    each<2>([&](auto p) {
      int8x16_t* v = w + 4 * p;
      const int8x16_t one0 = v[0], one1 = v[1], two0 = v[2], two1 = v[3];
      v[0] = low_halves(one0, two0);
      v[1] = high_halves(one0, two0);
      v[2] = low_halves(one1, two1);
      v[3] = high_halves(one1, two1);
    });
    const float64x2_t four = vreinterpretq_f64_f32(d[0]);
    d[0] = vreinterpretq_f32_f64(vzip1q_f64(four, four));
    d[1] = vreinterpretq_f32_f64(vzip2q_f64(four, four));
  }

  // Pair by pair within each block, so that a tile's pairs are read in order. A missing token is a copy of the last:
  // its results are dropped.
  static void pack(const MatmulArgs& a, int i, int tokens, int b, int blocks, uint8_t* out) {
    const size_t n_blocks = static_cast<size_t>(a.k / kBlock);
    const size_t pairs = static_cast<size_t>(tokens + 1) / 2;
    for (size_t p = 0; p < pairs; ++p) {
      const size_t block = (static_cast<size_t>(i) + 2 * p) * n_blocks + static_cast<size_t>(b);
      const size_t next = static_cast<int>(2 * p + 1) < tokens ? n_blocks : 0;
      const uint8_t* one = reinterpret_cast<const uint8_t*>(a.xq + block * kBlock);
      const uint8_t* two = one + next * kBlock;
      const float *d_one = a.xd + block, *d_two = d_one + next;
      uint8_t* to = out + p * kGroup * kTokenBytes;
      for (int e = 0; e < blocks; ++e, to += pairs * kGroup * kTokenBytes) {
        int8x16_t x[4];
        take_pair(one, x[0], x[1]);
        take_pair(two, x[2], x[3]);
        vst1q_f32(reinterpret_cast<float*>(to), vcombine_f32(vdup_n_f32(d_one[e]), vdup_n_f32(d_two[e])));
        int8_t* q = reinterpret_cast<int8_t*>(to) + sizeof(float32x4_t);
        vst1q_s8(q, low_halves(x[0], x[2]));
        vst1q_s8(q + 16, high_halves(x[0], x[2]));
        vst1q_s8(q + 32, low_halves(x[1], x[3]));
        vst1q_s8(q + 48, high_halves(x[1], x[3]));
      }
    }
  }

  template <int G>
  struct Tokens {
    Tokens(const MatmulArgs&, int, int, const uint8_t* packed) : at(packed) {}
    const uint8_t* at;
  };

  template <int G>
  static void multiply(const int8x16_t* w, const float32x4_t* d, Tokens<G>& x, float32x4_t* acc) {
    each<(G + kAtOnce - 1) / kAtOnce>([&](auto step) {
      constexpr int first = step * kAtOnce, count = G - first < kAtOnce ? G - first : kAtOnce;
      int8x16_t v[count * 5];  // of each pair its scales and 4 of x
      int32x4_t sum[count][2];
      take_vectors<count * 5>(x.at, v);
      each<count>([&](auto g) { each<2>([&](auto p) { sum[g][p] = vdupq_n_s32(0); }); });
      each<4>([&](auto e) {
        each<count>([&](auto g) {
          each<2>([&](auto p) { sum[g][p] = vmmlaq_s32(sum[g][p], v[5 * g + 1 + e], w[4 * p + e]); });
        });
      });
      each<count>([&](auto g) {
        each<2>([&](auto p) {
          float32x4_t& to = acc[2 * (first + g) + p];
          to = vfmaq_f32(to, vmulq_f32(d[p], vreinterpretq_f32_s8(v[5 * g])), vcvtq_f32_s32(sum[g][p]));
        });
      });
    });
  }

  static void swap(float32x4_t* acc) {
    const float64x2_t a = vreinterpretq_f64_f32(acc[0]), b = vreinterpretq_f64_f32(acc[1]);
    acc[0] = vreinterpretq_f32_f64(vzip1q_f64(a, b));
    acc[1] = vreinterpretq_f32_f64(vzip2q_f64(a, b));
  }
};

void matmul(const MatmulArgs& a) {
  if (a.m == 1)
    one_token(a);
  else
    panel_matmul<PairPanel>(a);
}

}  // namespace

void install(Table& t) {
  t.name = "neon_i8mm";
  one_token = t.matmul[static_cast<int>(DType::q8_0)];
  t.matmul[static_cast<int>(DType::q8_0)] = matmul;
  t.int8_peak = int8_peak;
}

}  // namespace lora_edge::neon_i8mm
