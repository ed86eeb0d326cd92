// Weights in blocks on AVX2: matmul, dequantize and quantize.
#include "kernels/x86/q8_panel.h"

namespace lora_edge::avx2 {
namespace {

// Products of bytes: maddubs wants unsigned times signed, so w · x = |w| · ±x. A pair of products lies between
// -2 · 128 · 128 and 2 · 127 · 127, which int16 holds. Sums of 4 neighbouring products in each of 8 lanes.
inline __m256i dot4(__m256i w_abs, __m256i x) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(w_abs, x), _mm256_set1_epi16(1));
}

// In panels the sign is taken off by xor, which runs beside the multiplications where sign would compete with them:
// ~x = -x - 1 for x where w < 0. The |w| that this is short of begins the sum.
template <class F>
struct SignedPanel {
  struct Block : BlockScales<F> {
    uint8_t abs[kBlock / 4][kPanelRows][4];
    uint8_t negative[kBlock / 4][kPanelRows][4];  // all ones where w < 0
    int32_t missing[kPanelRows];                  // Σ |w| of w < 0

    void pack(int h, const __m256i* group) {
      __m256i sum = _mm256_setzero_si256();
      for (int e = 0; e < kBlock / 4; ++e) {
        const __m256i w_abs = _mm256_abs_epi8(group[e]);
        const __m256i mask = _mm256_cmpgt_epi8(_mm256_setzero_si256(), group[e]);
        _mm256_store_si256(reinterpret_cast<__m256i*>(abs[e][h]), w_abs);
        _mm256_store_si256(reinterpret_cast<__m256i*>(negative[e][h]), mask);
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w_abs, mask));  // by 0 or -1: no less than -2^11
      }
      _mm256_store_si256(reinterpret_cast<__m256i*>(missing + h), _mm256_madd_epi16(sum, _mm256_set1_epi16(-1)));
    }
  };

  // Registers: 4 tokens x 2 of sums, 4 of weights, x, ones and products. The float sums are touched once per block and
  // may live on the stack.
  static constexpr int kPanels = 1, kTokens = 4;
  template <int n>
  static void dots(const Tile<Block>& t, int b, __m256i (*dot)[kHalfRegisters]) {
    const Block& block = t.panel[b];
    for (int i = 0; i < n; ++i)
      for (int v = 0; v < kHalfRegisters; ++v) dot[i][v] = load_bytes(block.missing + v * kLanes);
#pragma GCC unroll 1
    for (int e = 0; e < kBlock / 4; ++e) {
      const __m256i abs[] = {load_bytes(block.abs[e][0]), load_bytes(block.abs[e][kLanes])};
      const __m256i negative[] = {load_bytes(block.negative[e][0]), load_bytes(block.negative[e][kLanes])};
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i) {
        const __m256i x = _mm256_set1_epi32(load_i32(t.x(i, b) + e * 4));
        for (int v = 0; v < kHalfRegisters; ++v) {
          dot[i][v] = _mm256_add_epi32(dot[i][v], dot4(abs[v], _mm256_xor_si256(x, negative[v])));
          asm("" : "+x"(dot[i][v]));  // else GCC regroups the sums and spills them
        }
      }
    }
  }
  template <int n>
  static void tile(const Tile<Block>& t) {
    tile8<SignedPanel, F, n>(t);
  }
};

// Unsigned weights need no sign, and are so small that several steps' products add up in 16 bits.
template <class F>
struct UnsignedPanel {
  using Block = UnsignedBlock<F>;
  static constexpr int kSteps = F::kMost <= 15 && !F::kHalves ? 8 : F::kMost <= 31 ? 4 : 2;  // of 4 weights
  static_assert(kSteps * 2 * F::kMost * 127 < 1 << 15, "16 bits hold the sums");

  // Registers: 4 tokens x 2 of sums, 2 of weights, x, products.
  static constexpr int kPanels = 1, kTokens = 4;
  template <int n>
  static void dots(const Tile<Block>& t, int b, __m256i (*dot)[kHalfRegisters]) {
    const Block& block = t.panel[b];
#pragma GCC unroll 4
    for (int first = 0; first < kBlock / 4; first += kSteps) {
      __m256i sum[n][kHalfRegisters];
#pragma GCC unroll 8
      for (int e = first; e < first + kSteps; ++e) {
        const __m256i w[] = {load_bytes(block.w[e][0]), load_bytes(block.w[e][kLanes])};
#pragma GCC unroll 8
        for (int i = 0; i < n; ++i) {
          const __m256i x = _mm256_set1_epi32(load_i32(t.x(i, b) + e * 4));
          for (int v = 0; v < kHalfRegisters; ++v) {
            const __m256i products = _mm256_maddubs_epi16(w[v], x);
            sum[i][v] = e == first ? products : _mm256_add_epi16(sum[i][v], products);
            asm("" : "+x"(sum[i][v]));  // else GCC regroups the sums and spills them
          }
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < n; ++i)
        for (int v = 0; v < kHalfRegisters; ++v) {
          __m256i by = _mm256_set1_epi16(1);
          if constexpr (F::kHalves) by = load_bytes(block.scale[first * 4 / 16][v * kLanes]);
          const __m256i wide = _mm256_madd_epi16(sum[i][v], by);
          dot[i][v] = first == 0 ? wide : _mm256_add_epi32(dot[i][v], wide);
        }
    }
    if constexpr (F::kOffset > 0)
      for (int i = 0; i < n; ++i)
        for (int v = 0; v < kHalfRegisters; ++v) {
          __m256i by = _mm256_set1_epi16(static_cast<short>(-F::kOffset));
          if constexpr (F::kHalves) by = load_bytes(block.shift[v * kLanes]);
          dot[i][v] = _mm256_add_epi32(dot[i][v], _mm256_madd_epi16(t.sums(i, b), by));
        }
  }
  template <int n>
  static void tile(const Tile<Block>& t) {
    tile8<UnsignedPanel, F, n>(t);
  }
};

struct Products {
  static constexpr bool kFlipped = false;

  // Not abs: that would load w a second time, and every other load crosses a cache line.
  static __m256i few(__m256i w, __m256i x) { return dot4(_mm256_sign_epi8(w, w), _mm256_sign_epi8(x, w)); }
  static __m256i few_unsigned(__m256i w, __m256i x) { return dot4(w, x); }
  static constexpr bool kWords = true;
  static constexpr int kSome = 0;
  static __m256i words(__m256i w, __m256i x) { return _mm256_maddubs_epi16(w, x); }

  template <class F>
  using Panel = std::conditional_t<F::kSigned, SignedPanel<F>, UnsignedPanel<F>>;
};

// (d · scale) · q + min, rounded three times: see ref_quants.cpp.
template <class F>
void dequantize(const void* w, float* out, int k) {
  for (int b = 0; b < k / kBlock; b += F::kBlocks, out += F::kBlocks * kBlock) {
    const uint8_t* p = static_cast<const uint8_t*>(w) + static_cast<size_t>(b / F::kBlocks) * F::kBytes;
    const uint8_t* const rows[kLanes] = {p, p, p, p, p, p, p, p};
    const typename F::Scales scales(rows, 0);
    for (int s = 0; s < F::kBlocks; ++s) {
      alignas(32) int8_t q[kBlock];
      _mm256_store_si256(reinterpret_cast<__m256i*>(q),
                         _mm256_sub_epi8(F::weights(p, s), _mm256_set1_epi8(static_cast<char>(F::kOffset))));
      for (int e = 0; e < kBlock; e += kLanes) {
        __m256 scale = scales.d(s);
        if constexpr (F::kHalves) {
          const __m256i pair = scales.pairs(s), one = e < 16 ? _mm256_slli_epi32(pair, 16) : pair;
          scale = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_srai_epi32(one, 16)));
        }
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + e));
        __m256 value = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
        if constexpr (F::kMins > 0) value = _mm256_add_ps(value, scales.min(s, F::kMins > 1 ? e / 16 : 0));
        _mm256_storeu_ps(out + s * kBlock + e, value);
      }
    }
  }
}

// In columns of 8 positions: 32 rows share their scales.
void dequantize_keys(const int8_t* q, const uint16_t* scales, int d, float* out) {
  for (int b = 0; b < d; b += kBlock, scales += kPagePositions)
    for (int j = 0; j < kPagePositions; j += kLanes) {
      const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales + j)));
      for (int t = b; t < b + kBlock; ++t) {
        const int at = t * kPagePositions + j;
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + at));
        _mm256_storeu_ps(out + at, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))));
      }
    }
}

// Sums of the halves of a block: four of eight bytes as if unsigned, 128 too large each byte; then by two.
inline void sum_halves(__m256i bytes, int16_t* s) {
  const __m256i part = _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
  const __m256i sum = _mm256_add_epi64(part, _mm256_unpackhi_epi64(part, part));
  s[0] = static_cast<int16_t>(_mm256_extract_epi16(sum, 0) - kBlock / 2 * 128);
  s[1] = static_cast<int16_t>(_mm256_extract_epi16(sum, 8) - kBlock / 2 * 128);
}

// The operand order of each max and min gives NaN the fate it has in ref.cpp.
void quantize(const float* x, int8_t* q, float* d, int16_t* s, int k) {
  for (int b = 0; b < k / kBlock; ++b) {
    __m256 v[4], max = _mm256_setzero_ps();
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_loadu_ps(x + b * kBlock + i * kLanes);
      max = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), v[i]), max);
    }
    d[b] = max8(max) / 127.0f;
    const __m256 inverse = _mm256_set1_ps(d[b] != 0.0f ? 1.0f / d[b] : 0.0f);
    __m256i n[4];
    for (int i = 0; i < 4; ++i) {
      __m256 r = _mm256_round_ps(_mm256_mul_ps(v[i], inverse), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      r = _mm256_min_ps(_mm256_set1_ps(127.0f), r);
      r = _mm256_max_ps(r, _mm256_set1_ps(-127.0f));
      n[i] = _mm256_cvtps_epi32(r);
    }
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
    const __m256i ordered = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + b * kBlock), ordered);
    sum_halves(ordered, s + 2 * b);
  }
}

}  // namespace

void install_q8(Table& t) {
  install_matmul<Products>(t);
  each_format([&](DType type, auto f) { t.dequantize[static_cast<int>(type)] = dequantize<decltype(f)>; });
  t.dequantize_keys = dequantize_keys;
  t.quantize_q8 = quantize;
}

}  // namespace lora_edge::avx2
