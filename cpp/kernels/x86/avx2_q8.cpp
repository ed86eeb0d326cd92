// Q8_0 on AVX2: matmul, dequantize and quantize.
//
// Products of bytes: maddubs wants unsigned times signed, so w · x = |w| · sign(x, w), exact for w >= -128 and
// |x| <= 127: a pair sums to 2 · 128 · 127 at most, which int16 holds.
#include "kernels/x86/q8_panel.h"

namespace lora_edge::avx2 {
namespace {

// Sums of 4 neighbouring products in each of 8 lanes.
inline __m256i dot4(__m256i w, __m256i w_abs, __m256i x) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(w_abs, _mm256_sign_epi8(x, w)), _mm256_set1_epi16(1));
}

// Few tokens: 8 rows at a time, straight from the file. Bound by memory, so later tokens find the rows in L1.
constexpr int kFewTokens = 3;
void matmul_few(const MatmulArgs& a) {
  const int blocks = a.k / kBlock;
  for (int j = a.n0; j < a.n1; j += kLanes) {
    const int count = a.n1 - j < kLanes ? a.n1 - j : kLanes;
    const uint8_t* row[kLanes];
    row_pointers<kLanes>(a, j, count, row);
    for (int i = 0; i < a.m; ++i) {
      const int8_t* xq = a.xq + static_cast<size_t>(i) * static_cast<size_t>(a.k);
      const float* xd = a.xd + static_cast<size_t>(i) * static_cast<size_t>(blocks);
      __m256 acc = _mm256_setzero_ps();
      for (int b = 0; b < blocks; ++b) {
        if (i == 0) prefetch_next<kLanes>(row[0], a.w_stride, b);
        const size_t offset = static_cast<size_t>(b) * kBlockBytes;
        const __m256i x = load_bytes(xq + b * kBlock);
        __m256i part[kLanes];
        for (int r = 0; r < kLanes; ++r) {
          const __m256i w = load_bytes(row[r] + offset + kScaleBytes);
          // Not abs: that would load w a second time, and every other load crosses a cache line.
          part[r] = dot4(w, _mm256_sign_epi8(w, w), x);
        }
        const __m256 scale = _mm256_mul_ps(load_scales(row, offset), _mm256_set1_ps(xd[b]));
        acc = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(sum_rows(part)), acc);
      }
      store_lanes(a.y + static_cast<size_t>(i) * a.ldy + j, acc, count);
    }
  }
}

// A panel times kTokens tokens. Registers: 4 tokens x 2 vectors of int32 sums, the weights and their absolute values
// (4), x and products (3); the float sums are touched once per block only and may live on the stack.
template <int kTokens>
void panel_tile(const PanelBlock* panel, int blocks, bool first, const int8_t* xq, size_t ldq, const float* xd,
                size_t ldd, float* y, size_t ldy, int count) {
  __m256 acc[kTokens][2];
  for (int t = 0; t < kTokens; ++t)
    for (int v = 0; v < 2; ++v)
      acc[t][v] =
          first ? _mm256_setzero_ps() : load_lanes(y + static_cast<size_t>(t) * ldy + v * kLanes, count - v * kLanes);
  for (int b = 0; b < blocks; ++b) {
    __m256i dot[kTokens][2];
    for (int t = 0; t < kTokens; ++t) dot[t][0] = dot[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 1  // unrolled, GCC regroups the sums and spills them
    for (int e = 0; e < kBlock / 4; ++e) {
      const __m256i w0 = load_bytes(panel[b].w[e][0]), w1 = load_bytes(panel[b].w[e][kLanes]);
      const __m256i abs0 = _mm256_abs_epi8(w0), abs1 = _mm256_abs_epi8(w1);
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        const __m256i x = _mm256_set1_epi32(load_i32(xq + static_cast<size_t>(t) * ldq + b * kBlock + e * 4));
        dot[t][0] = _mm256_add_epi32(dot[t][0], dot4(w0, abs0, x));
        dot[t][1] = _mm256_add_epi32(dot[t][1], dot4(w1, abs1, x));
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      const __m256 dx = _mm256_set1_ps(xd[static_cast<size_t>(t) * ldd + static_cast<size_t>(b)]);
      for (int v = 0; v < 2; ++v) {
        const __m256 scale = _mm256_mul_ps(_mm256_load_ps(panel[b].d + v * kLanes), dx);
        acc[t][v] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dot[t][v]), acc[t][v]);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t)
    for (int v = 0; v < 2; ++v)
      store_lanes(y + static_cast<size_t>(t) * ldy + v * kLanes, acc[t][v], count - v * kLanes);
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
    row_pointers<kPanelRows>(a, j, count, row);
    for (int b = 0; b < blocks; b += kPanelBlocks) {  // y holds the sums from one range of blocks to the next
      const int depth = blocks - b < kPanelBlocks ? blocks - b : kPanelBlocks;
      pack_panel<false>(row, a.w_stride, b, depth, panel);
      for (int i = 0; i < a.m; i += 4) {
        const int tokens = a.m - i < 4 ? a.m - i : 4;
        const size_t t = static_cast<size_t>(i);
        kTiles[tokens - 1](panel, depth, b == 0, a.xq + t * ldq + b * kBlock, ldq, a.xd + t * ldd + b, ldd,
                           a.y + t * a.ldy + j, a.ldy, count);
      }
    }
  }
}

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
  t.matmul[static_cast<int>(DType::q8_0)] = matmul;
  t.dequantize[static_cast<int>(DType::q8_0)] = dequantize;
  t.quantize_q8 = quantize;
}

}  // namespace lora_edge::avx2
