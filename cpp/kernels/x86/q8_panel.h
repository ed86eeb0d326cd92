// Q8_0 matmul on x86, for tables that differ in how they multiply bytes (`P`, for products). Included, like
// avx2_common.h, as each file's own copy.
//
// Few tokens take rows straight from the file: that is bound by memory. More tokens share panels of 16 rows, packed so
// that lanes are rows.
//
// P::few(w, x)            8 sums of 4 neighbouring products of bytes, each sum too large by its share of 128 · Σx if
// P::kFlipped             weights enter as w + 128
// P::Block                one block of a panel, with the scales `d` [kPanelRows]
// Block::pack(h, group)   stores group[e], the weights 4e … 4e + 3 of rows h … h + 7
// P::tile<n>(Tile)        a panel times n tokens, n <= P::kTokens
#pragma once

#include "kernels/x86/avx2_common.h"

namespace lora_edge::avx2 {
namespace {

constexpr size_t kBlockBytes = sizeof(BlockQ8_0), kScaleBytes = sizeof(BlockQ8_0::d);

inline __m256i load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

inline int load_i32(const void* p) {
  int v;
  std::memcpy(&v, p, 4);
  return v;
}

// w + 128, as unsigned bytes.
inline __m256i flip(__m256i w) { return _mm256_xor_si256(w, _mm256_set1_epi8(-128)); }

// The scales of 8 blocks, one per row.
inline __m256 load_scales(const uint8_t* const* row, size_t offset) {
  short d[8];
  for (int r = 0; r < 8; ++r) std::memcpy(&d[r], row[r] + offset, kScaleBytes);
  return _mm256_cvtph_ps(_mm_setr_epi16(d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]));
}

// Pointers to `count` rows; those missing of kRows repeat the last.
template <int kRows>
void row_pointers(const MatmulArgs& a, int first, int count, const uint8_t** row) {
  for (int r = 0; r < kRows; ++r)
    row[r] = static_cast<const uint8_t*>(a.w) + static_cast<size_t>(first + (r < count ? r : count - 1)) * a.w_stride;
}

// Rows are too short for the hardware to see as many streams in them, so block b's share of the next kRows rows is
// prefetched, in the order of memory. Past the end of the weights this does nothing.
template <int kRows>
void prefetch_next(const uint8_t* first_row, size_t w_stride, int b) {
  constexpr size_t kShare = kRows * kBlockBytes;
  const uint8_t* next = first_row + kRows * w_stride + static_cast<size_t>(b) * kShare;
  for (size_t line = 0; line < kShare; line += 64) _mm_prefetch(next + line, _MM_HINT_T0);
}

// ---- few tokens ----

// Lane r: the sum of v[r]'s lanes.
inline __m256i sum_rows(const __m256i* v) {
  __m256i half[2];
  for (int i = 0; i < 2; ++i) {
    const __m256i* q = v + 4 * i;
    const __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(q[0], q[1]), _mm256_unpackhi_epi32(q[0], q[1]));
    const __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(q[2], q[3]), _mm256_unpackhi_epi32(q[2], q[3]));
    half[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  }
  return _mm256_add_epi32(_mm256_permute2x128_si256(half[0], half[1], 0x20),
                          _mm256_permute2x128_si256(half[0], half[1], 0x31));
}

// 8 rows at a time; later tokens find them in L1.
template <class P>
void matmul_few(const MatmulArgs& a) {
  const int blocks = a.k / kBlock;
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
        for (int r = 0; r < kLanes; ++r) part[r] = P::few(load_bytes(row[r] + offset + kScaleBytes), x);
        __m256i dot = sum_rows(part);
        if constexpr (P::kFlipped) dot = _mm256_sub_epi32(dot, _mm256_set1_epi32(128 * xs[b]));
        const __m256 scale = _mm256_mul_ps(load_scales(row, offset), _mm256_set1_ps(xd[b]));
        acc = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dot), acc);
      }
      store_lanes(a.y + static_cast<size_t>(i) * a.ldy + j, acc, count);
    }
  }
}

// ---- many tokens ----

constexpr int kPanelRows = 16;
// A panel stays in a 32 KiB L1 beside the tokens of a tile.
constexpr size_t kPanelBytes = 22 * 1024;

// A panel's blocks times some tokens: y[t · ldy + r], r < count, is made if `first`, else added to.
template <class Block>
struct Tile {
  const Block* panel;
  int blocks;
  bool first;
  const int8_t* xq;
  size_t ldq;
  const float* xd;
  const int32_t* xs;
  size_t ldd;  // of xd and xs
  float* y;
  size_t ldy;
  int count;
};

template <class P>
void pack_panel(const uint8_t* const* row, size_t w_stride, int first, int count, typename P::Block* panel) {
  for (int b = 0; b < count; ++b) {
    prefetch_next<kPanelRows>(row[0], w_stride, first + b);
    const size_t offset = static_cast<size_t>(first + b) * kBlockBytes;
    for (int h = 0; h < kPanelRows; h += kLanes) {
      __m256i w[kLanes];
      for (int r = 0; r < kLanes; ++r) w[r] = load_bytes(row[h + r] + offset + kScaleBytes);
      transpose_groups(w);
      panel[b].pack(h, w);
      _mm256_store_ps(panel[b].d + h, load_scales(row + h, offset));
    }
  }
}

// A block of weights plus 128, for products of unsigned by signed bytes.
struct FlippedBlock {
  uint8_t w[kBlock / 4][kPanelRows][4];
  float d[kPanelRows];

  void pack(int h, const __m256i* group) {
    for (int e = 0; e < kBlock / 4; ++e) _mm256_store_si256(reinterpret_cast<__m256i*>(w[e][h]), flip(group[e]));
  }
};

template <class P, int kTokens>
void run_tile(int tokens, const Tile<typename P::Block>& t) {
  if constexpr (kTokens > 0) {
    if (tokens == kTokens) return P::template tile<kTokens>(t);
    run_tile<P, kTokens - 1>(tokens, t);
  }
}

template <class P>
void matmul_panels(const MatmulArgs& a) {
  using Block = typename P::Block;
  constexpr int kMost = static_cast<int>(kPanelBytes / sizeof(Block));
  static_assert(kPanelBytes <= kScratchBytes, "a panel fits");
  Block* panel = static_cast<Block*>(a.scratch);
  const int blocks = a.k / kBlock;
  const int ranges = (blocks + kMost - 1) / kMost, depth = (blocks + ranges - 1) / ranges;
  const size_t ldq = static_cast<size_t>(a.k), ldd = static_cast<size_t>(blocks);
  for (int j = a.n0; j < a.n1; j += kPanelRows) {
    const int count = a.n1 - j < kPanelRows ? a.n1 - j : kPanelRows;
    const uint8_t* row[kPanelRows];
    row_pointers<kPanelRows>(a, j, count, row);
    for (int b = 0; b < blocks; b += depth) {  // y holds the sums from one range of blocks to the next
      const int n = blocks - b < depth ? blocks - b : depth;
      pack_panel<P>(row, a.w_stride, b, n, panel);
      for (int i = 0; i < a.m; i += P::kTokens) {
        const size_t t = static_cast<size_t>(i);
        run_tile<P, P::kTokens>(a.m - i < P::kTokens ? a.m - i : P::kTokens,
                                {panel, n, b == 0, a.xq + t * ldq + b * kBlock, ldq, a.xd + t * ldd + b,
                                 a.xs + t * ldd + b, ldd, a.y + t * a.ldy + j, a.ldy, count});
      }
    }
  }
}

// P::tile for registers of 8 rows, of
// P::Rows                      a step's weights of 8 rows
// P::rows(block, e, h)         step e of rows h … h + 7
// P::begin(block, h, xs)       what their sums begin with
// P::add(sum, rows, x)         sum + the step's products with 4 bytes of x
template <class P, int kTokens>
void tile8(const Tile<typename P::Block>& t) {
  constexpr int kHalves = kPanelRows / kLanes;
  __m256 acc[kTokens][kHalves];
  for (int i = 0; i < kTokens; ++i)
    for (int v = 0; v < kHalves; ++v)
      acc[i][v] = t.first ? _mm256_setzero_ps()
                          : load_lanes(t.y + static_cast<size_t>(i) * t.ldy + v * kLanes, t.count - v * kLanes);
  for (int b = 0; b < t.blocks; ++b) {
    const typename P::Block& block = t.panel[b];
    __m256i dot[kTokens][kHalves];
    for (int i = 0; i < kTokens; ++i)
      for (int v = 0; v < kHalves; ++v)
        dot[i][v] = P::begin(block, v * kLanes, t.xs[static_cast<size_t>(i) * t.ldd + static_cast<size_t>(b)]);
#pragma GCC unroll 1
    for (int e = 0; e < kBlock / 4; ++e) {
      const typename P::Rows low = P::rows(block, e, 0), high = P::rows(block, e, kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kTokens; ++i) {
        const __m256i x = _mm256_set1_epi32(load_i32(t.xq + static_cast<size_t>(i) * t.ldq + b * kBlock + e * 4));
        dot[i][0] = P::add(dot[i][0], low, x);
        dot[i][1] = P::add(dot[i][1], high, x);
      }
    }
    for (int i = 0; i < kTokens; ++i) {
      const __m256 dx = _mm256_set1_ps(t.xd[static_cast<size_t>(i) * t.ldd + static_cast<size_t>(b)]);
      for (int v = 0; v < kHalves; ++v) {
        const __m256 scale = _mm256_mul_ps(_mm256_load_ps(block.d + v * kLanes), dx);
        acc[i][v] = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dot[i][v]), acc[i][v]);
      }
    }
  }
  for (int i = 0; i < kTokens; ++i)
    for (int v = 0; v < kHalves; ++v)
      store_lanes(t.y + static_cast<size_t>(i) * t.ldy + v * kLanes, acc[i][v], t.count - v * kLanes);
}

constexpr int kFewTokens = 3;
template <class P>
void matmul_q8(const MatmulArgs& a) {
  a.m <= kFewTokens ? matmul_few<P>(a) : matmul_panels<P>(a);
}

}  // namespace
}  // namespace lora_edge::avx2
