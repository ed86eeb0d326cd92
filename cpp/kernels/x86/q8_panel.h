// What the Q8_0 files of x86 share: access to rows of blocks, and panels of 16 rows whose lanes are rows. Included,
// like avx2_common.h, as each file's own copy.
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

// The scales of 8 blocks, one per row.
inline __m256 load_scales(const uint8_t* const* row, size_t offset) {
  short d[8];
  for (int r = 0; r < 8; ++r) std::memcpy(&d[r], row[r] + offset, kScaleBytes);
  return _mm256_cvtph_ps(_mm_setr_epi16(d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]));
}

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

// A panel holds 16 rows of up to kPanelBlocks blocks so that lanes are rows: of each block, 8 steps of 4 neighbouring
// weights of each row, then the 16 scales. 18 KiB: it stays in a 32 KiB L1 beside 4 tokens' x.
constexpr int kPanelRows = 16;
constexpr int kPanelBlocks = 32;
struct PanelBlock {
  int8_t w[kBlock / 4][kPanelRows][4];
  float d[kPanelRows];
};
static_assert(sizeof(PanelBlock) * kPanelBlocks <= kScratchBytes, "a panel fits");

// Transposes 8 x 8 groups of 4 bytes: row r's group e goes to out[e · stride], lane r.
inline void transpose_groups(const __m256i* row, int8_t* out, size_t stride) {
  __m256i pair[8], quad[8];
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_epi32(row[i], row[i + 1]);      // groups 0, 1 | 4, 5
    pair[i + 1] = _mm256_unpackhi_epi32(row[i], row[i + 1]);  // groups 2, 3 | 6, 7
  }
  for (int i = 0; i < 8; i += 4)
    for (int s = 0; s < 2; ++s) {
      quad[i + 2 * s] = _mm256_unpacklo_epi64(pair[i + s], pair[i + 2 + s]);      // group 2s | 2s + 4
      quad[i + 2 * s + 1] = _mm256_unpackhi_epi64(pair[i + s], pair[i + 2 + s]);  // group 2s + 1 | 2s + 5
    }
  for (int e = 0; e < 4; ++e) {
    const __m256i low = _mm256_permute2x128_si256(quad[e], quad[e + 4], 0x20);
    const __m256i high = _mm256_permute2x128_si256(quad[e], quad[e + 4], 0x31);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + static_cast<size_t>(e) * stride), low);
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + static_cast<size_t>(e + 4) * stride), high);
  }
}

// kFlip: each weight plus 128, as an unsigned byte.
template <bool kFlip>
void pack_panel(const uint8_t* const* row, size_t w_stride, int first, int count, PanelBlock* panel) {
  for (int b = 0; b < count; ++b) {
    prefetch_next<kPanelRows>(row[0], w_stride, first + b);
    const size_t offset = static_cast<size_t>(first + b) * kBlockBytes;
    for (int h = 0; h < kPanelRows; h += kLanes) {
      __m256i w[kLanes];
      for (int r = 0; r < kLanes; ++r) {
        w[r] = load_bytes(row[h + r] + offset + kScaleBytes);
        if (kFlip) w[r] = _mm256_xor_si256(w[r], _mm256_set1_epi8(-128));
      }
      transpose_groups(w, panel[b].w[0][h], sizeof(panel[b].w[0]));
      _mm256_store_ps(panel[b].d + h, load_scales(row + h, offset));
    }
  }
}

}  // namespace
}  // namespace lora_edge::avx2
