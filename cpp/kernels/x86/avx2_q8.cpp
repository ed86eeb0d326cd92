// Q8_0 on AVX2: matmul, dequantize and quantize.
#include "kernels/x86/q8_panel.h"

namespace lora_edge::avx2 {
namespace {

// Products of bytes: maddubs wants unsigned times signed, so w · x = |w| · ±x. A pair of products lies between
// -2 · 128 · 128 and 2 · 127 · 127, which int16 holds.
struct Products {
  static constexpr bool kFlipped = false;

  // Sums of 4 neighbouring products in each of 8 lanes.
  static __m256i dot4(__m256i w_abs, __m256i x) {
    return _mm256_madd_epi16(_mm256_maddubs_epi16(w_abs, x), _mm256_set1_epi16(1));
  }

  // Not abs: that would load w a second time, and every other load crosses a cache line.
  static __m256i few(__m256i w, __m256i x) { return dot4(_mm256_sign_epi8(w, w), _mm256_sign_epi8(x, w)); }

  // In panels the sign is taken off by xor, which runs beside the multiplications where sign would compete with them:
  // ~x = -x - 1 for x where w < 0. The |w| that this is short of begins the sum.
  struct Block {
    uint8_t abs[kBlock / 4][kPanelRows][4];
    uint8_t negative[kBlock / 4][kPanelRows][4];  // all ones where w < 0
    int32_t missing[kPanelRows];                  // Σ |w| of w < 0
    float d[kPanelRows];

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
  struct Rows {
    __m256i abs, negative;
  };
  static Rows rows(const Block& block, int e, int h) {
    return {load_bytes(block.abs[e][h]), load_bytes(block.negative[e][h])};
  }
  static __m256i begin(const Block& block, int h, int32_t) { return load_bytes(block.missing + h); }
  static __m256i add(__m256i sum, const Rows& w, __m256i x) {
    sum = _mm256_add_epi32(sum, dot4(w.abs, _mm256_xor_si256(x, w.negative)));
    asm("" : "+x"(sum));  // else GCC regroups the sums and spills them
    return sum;
  }

  // Registers: 4 tokens x 2 of sums, 4 of weights, x, ones and products. The float sums are touched once per block and
  // may live on the stack.
  static constexpr int kTokens = 4;
  template <int n>
  static void tile(const Tile<Block>& t) {
    tile8<Products, n>(t);
  }
};

void dequantize(const void* w, float* out, int k) {
  for (int b = 0; b < k / kBlock; ++b) {
    const uint8_t* block = static_cast<const uint8_t*>(w) + static_cast<size_t>(b) * kBlockBytes;
    uint16_t d;
    std::memcpy(&d, block, kScaleBytes);
    const __m256 scale = _mm256_set1_ps(_cvtsh_ss(d));
    for (int e = 0; e < kBlock; e += kLanes) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(block + kScaleBytes + e));
      _mm256_storeu_ps(out + b * kBlock + e, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))));
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

// Four sums of eight bytes as if unsigned, 128 too large each byte; then their sum.
inline int32_t sum_bytes(__m256i bytes) {
  const __m256i part = _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
  const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(part), _mm256_extracti128_si256(part, 1));
  return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_unpackhi_epi64(half, half))) - kBlock * 128;
}

// The operand order of each max and min gives NaN the fate it has in ref.cpp.
void quantize(const float* x, int8_t* q, float* d, int32_t* s, int k) {
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
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + b * kBlock),
                        _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    s[b] = sum_bytes(bytes);
  }
}

}  // namespace

void install_q8(Table& t) {
  t.matmul[static_cast<int>(DType::q8_0)] = matmul_q8<Products>;
  t.dequantize[static_cast<int>(DType::q8_0)] = dequantize;
  t.dequantize_keys = dequantize_keys;
  t.quantize_q8 = quantize;
}

}  // namespace lora_edge::avx2
