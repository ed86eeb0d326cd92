// Q8_0 matmul with the byte dot products of AVX-512 VNNI (Ice Lake, Zen 4 and later).
//
// vpdpbusd adds four products of unsigned by signed bytes to each 32-bit sum: w + 128, unsigned, by x. That is too
// large by 128 times the sum of x's block, with which each sum begins.
#if !defined(LORA_EDGE_EMULATE_AVX512) && !(defined(__AVX512VNNI__) && defined(__AVX512VL__) && defined(__AVX512BW__))
#error "built with AVX-512 F, BW, VL and VNNI only"
#endif
#include "kernels/peak.h"
#include "kernels/x86/q8_panel.h"

namespace lora_edge::avx512_vnni {
namespace {

using namespace lora_edge::avx2;  // NOLINT: the helpers are this file's own copy

// Few tokens: 8 rows at a time, straight from the file, as on AVX2.
constexpr int kFewTokens = 3;
void matmul_few(const MatmulArgs& a) {
  const int blocks = a.k / kBlock;
  const __m256i flip = _mm256_set1_epi8(-128);
  for (int j = a.n0; j < a.n1; j += kLanes) {
    const int count = a.n1 - j < kLanes ? a.n1 - j : kLanes;
    const uint8_t* row[kLanes];
    row_pointers<kLanes>(a, j, count, row);
    for (int i = 0; i < a.m; ++i) {
      const int8_t* xq = a.xq + static_cast<size_t>(i) * static_cast<size_t>(a.k);
      const float* xd = a.xd + static_cast<size_t>(i) * static_cast<size_t>(blocks);
      const int32_t* xs = a.xs + static_cast<size_t>(i) * static_cast<size_t>(blocks);
      __m256 acc = _mm256_setzero_ps();
      for (int b = 0; b < blocks; ++b) {
        if (i == 0) prefetch_next<kLanes>(row[0], a.w_stride, b);
        const size_t offset = static_cast<size_t>(b) * kBlockBytes;
        const __m256i x = load_bytes(xq + b * kBlock);
        __m256i part[kLanes];
        for (int r = 0; r < kLanes; ++r) {
          const __m256i w = _mm256_xor_si256(load_bytes(row[r] + offset + kScaleBytes), flip);
          part[r] = _mm256_dpbusd_epi32(_mm256_setzero_si256(), w, x);
        }
        const __m256i dot = _mm256_sub_epi32(sum_rows(part), _mm256_set1_epi32(128 * xs[b]));
        const __m256 scale = _mm256_mul_ps(load_scales(row, offset), _mm256_set1_ps(xd[b]));
        acc = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dot), acc);
      }
      store_lanes(a.y + static_cast<size_t>(i) * a.ldy + j, acc, count);
    }
  }
}

inline __mmask16 lanes_below(int count) {
  return static_cast<__mmask16>(count >= kPanelRows ? 0xffffu : (1u << count) - 1);
}

// A panel times kTokens tokens. Registers of 32: 8 float sums, 8 integer sums, the weights of a step, scales. A dot
// product takes 4 to 5 cycles and one can begin in each: 8 independent sums hide that. Four bytes of x are
// broadcast from memory for each.
constexpr int kTileTokens = 8;
template <int kTokens>
void panel_tile(const PanelBlock* panel, int blocks, bool first, const int8_t* xq, size_t ldq, const float* xd,
                const int32_t* xs, size_t ldd, float* y, size_t ldy, __mmask16 lanes) {
  __m512 acc[kTokens];
  for (int t = 0; t < kTokens; ++t)
    acc[t] = first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(lanes, y + static_cast<size_t>(t) * ldy);
  for (int b = 0; b < blocks; ++b) {
    __m512i dot[kTokens];
    for (int t = 0; t < kTokens; ++t)
      dot[t] = _mm512_set1_epi32(-128 * xs[static_cast<size_t>(t) * ldd + static_cast<size_t>(b)]);
#pragma GCC unroll 8
    for (int e = 0; e < kBlock / 4; ++e) {
      const __m512i w = _mm512_loadu_si512(panel[b].w[e]);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const int8_t* x = xq + static_cast<size_t>(t) * ldq + b * kBlock + e * 4;
        dot[t] = _mm512_dpbusd_epi32(dot[t], w, _mm512_set1_epi32(load_i32(x)));
      }
    }
    const __m512 dw = _mm512_loadu_ps(panel[b].d);
    for (int t = 0; t < kTokens; ++t) {
      const __m512 dx = _mm512_set1_ps(xd[static_cast<size_t>(t) * ldd + static_cast<size_t>(b)]);
      acc[t] = _mm512_fmadd_ps(_mm512_mul_ps(dw, dx), _mm512_cvtepi32_ps(dot[t]), acc[t]);
    }
  }
  for (int t = 0; t < kTokens; ++t) _mm512_mask_storeu_ps(y + static_cast<size_t>(t) * ldy, lanes, acc[t]);
}

void matmul(const MatmulArgs& a) {
  if (a.m <= kFewTokens) return matmul_few(a);
  constexpr decltype(&panel_tile<1>) kTiles[] = {panel_tile<1>, panel_tile<2>, panel_tile<3>, panel_tile<4>,
                                                 panel_tile<5>, panel_tile<6>, panel_tile<7>, panel_tile<8>};
  PanelBlock* panel = static_cast<PanelBlock*>(a.scratch);
  const int blocks = a.k / kBlock;
  const size_t ldq = static_cast<size_t>(a.k), ldd = static_cast<size_t>(blocks);
  for (int j = a.n0; j < a.n1; j += kPanelRows) {
    const int count = a.n1 - j < kPanelRows ? a.n1 - j : kPanelRows;
    const uint8_t* row[kPanelRows];
    row_pointers<kPanelRows>(a, j, count, row);
    for (int b = 0; b < blocks; b += kPanelBlocks) {  // y holds the sums from one range of blocks to the next
      const int depth = blocks - b < kPanelBlocks ? blocks - b : kPanelBlocks;
      pack_panel<true>(row, a.w_stride, b, depth, panel);
      for (int i = 0; i < a.m; i += kTileTokens) {
        const int tokens = a.m - i < kTileTokens ? a.m - i : kTileTokens;
        const size_t t = static_cast<size_t>(i);
        kTiles[tokens - 1](panel, depth, b == 0, a.xq + t * ldq + b * kBlock, ldq, a.xd + t * ldd + b,
                           a.xs + t * ldd + b, ldd, a.y + t * a.ldy + j, a.ldy, lanes_below(count));
      }
    }
  }
}

}  // namespace

void install(Table& t) {
  t.name = "avx512_vnni";
  t.matmul[static_cast<int>(DType::q8_0)] = matmul;
#if !defined(LORA_EDGE_EMULATE_AVX512)
  t.int8_peak = int8_peak;
#endif
}

}  // namespace lora_edge::avx512_vnni
