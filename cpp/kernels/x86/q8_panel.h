// Matmul of quantised weights on x86, for all formats F (quant_formats.h) and for tables that differ in how they
// multiply bytes (`P`, for products). Included, like avx2_common.h, as each file's own copy.
//
// Few tokens take rows straight from the file: that is bound by memory. More tokens share panels of 16 rows, packed so
// that lanes are rows.
//
// P::few(w, x)            8 sums of 4 neighbouring products of signed bytes, each sum too large by its share of
//                         128 · Σx if P::kFlipped: weights then enter as w + 128
// P::few_unsigned(w, x)   the same of unsigned by signed bytes, w < 64
// P::kWords               P::words(w, x) gives 16 sums of 2 of these products, in 16 bits, for less
// P::Panel<F>             what panels of a format are and how they are multiplied:
//   Block                   one block of a panel; pack(h, group) stores group[e], the weights 4e … 4e + 3 of rows
//                           h … h + 7
//   tile<n>(Tile)           kPanels panels side by side times n tokens, n <= kTokens
#pragma once

#include <type_traits>

#include "kernels/x86/quant_formats.h"

namespace lora_edge::avx2 {
namespace {

// w + 128, as unsigned bytes.
inline __m256i flip(__m256i w) { return _mm256_xor_si256(w, _mm256_set1_epi8(-128)); }

// Pointers to `count` rows; those missing of kRows repeat the last.
template <int kRows>
void row_pointers(const MatmulArgs& a, int first, int count, const uint8_t** row) {
  for (int r = 0; r < kRows; ++r)
    row[r] = static_cast<const uint8_t*>(a.w) + static_cast<size_t>(first + (r < count ? r : count - 1)) * a.w_stride;
}

// Rows are too short for the hardware to see as many streams in them, so with each block of kRows rows its share of the
// kRows rows after them is prefetched, in the order of memory, and into L2, which has more misses under way at a time,
// that of kFar times as far. What lies after row n1 - 1 is another thread's: a.next goes on.
template <class F, int kRows>
class Upcoming {
 public:
  Upcoming(const MatmulArgs& a, int j) : near_(at(a, j, 1)), far_(at(a, j, kFar)) {}
  void prefetch(int b) const {
    constexpr size_t kShare = kRows * F::kBytes / F::kBlocks;
    for (size_t line = static_cast<size_t>(b) * kShare, end = line + kShare; line < end; line += 64) {
      _mm_prefetch(near_ + line, _MM_HINT_T0);
      _mm_prefetch(far_ + line, _MM_HINT_T1);
    }
  }

 private:
  static constexpr int kFar = 4;
  static const uint8_t* at(const MatmulArgs& a, int j, int groups) {
    const int row = j + groups * kRows;
    if (row < a.n1) return static_cast<const uint8_t*>(a.w) + static_cast<size_t>(row) * a.w_stride;
    if (a.next) return static_cast<const uint8_t*>(a.next) + static_cast<size_t>(row - a.n1) * a.w_stride;
    return static_cast<const uint8_t*>(a.w) + static_cast<size_t>(j) * a.w_stride;  // here already
  }
  const uint8_t *near_, *far_;
};

// Sums of x's half blocks, as a pair in every lane, and what they make.
inline __m256i load_sums(const int16_t* xs) { return _mm256_set1_epi32(load_i32(xs)); }
inline __m256i times_sum(__m256i sums, int by) {
  return _mm256_madd_epi16(sums, _mm256_set1_epi16(static_cast<short>(by)));
}

// acc plus a block's products, and minima: kernels.h has the order. min(from, h): the rows' minima.
template <class F, class From, class Min>
inline __m256 add_block(__m256 acc, __m256i dot, __m256 d, __m256 dx, __m256i sums, const From& from, Min min) {
  acc = _mm256_fmadd_ps(_mm256_mul_ps(d, dx), _mm256_cvtepi32_ps(dot), acc);
  if constexpr (F::kMins == 1)
    acc = _mm256_fmadd_ps(min(from, 0), _mm256_mul_ps(dx, _mm256_cvtepi32_ps(times_sum(sums, 1))), acc);
  if constexpr (F::kMins == 2) {
    const __m256i first = _mm256_srai_epi32(_mm256_slli_epi32(sums, 16), 16), second = _mm256_srai_epi32(sums, 16);
    acc = _mm256_fmadd_ps(min(from, 0), _mm256_mul_ps(dx, _mm256_cvtepi32_ps(first)), acc);
    acc = _mm256_fmadd_ps(min(from, 1), _mm256_mul_ps(dx, _mm256_cvtepi32_ps(second)), acc);
  }
  return acc;
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

// Of 16-bit sums of two products: half[0] comes to hold rows 0-3 and half[1] rows 4-7, two sums each of what the lanes
// of 128 bits hold. In 16 bits, which what is made of them has to fit; on the way there they may overflow.
inline void sum_words(const __m256i* v, __m256i* half) {
  for (int i = 0; i < 2; ++i) {
    const __m256i* q = v + 4 * i;
    const __m256i ab = _mm256_add_epi16(_mm256_unpacklo_epi32(q[0], q[1]), _mm256_unpackhi_epi32(q[0], q[1]));
    const __m256i cd = _mm256_add_epi16(_mm256_unpacklo_epi32(q[2], q[3]), _mm256_unpackhi_epi32(q[2], q[3]));
    half[i] = _mm256_add_epi16(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
  }
}

// Of weights up to kMost: eight sums of two products fit in 16 bits up to 15, four up to 31.
template <int kMost>
inline __m256i sum_word_rows(const __m256i* v) {
  static_assert(4 * 2 * kMost * 127 < 1 << 15, "16 bits hold the sums");
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i half[2];
  sum_words(v, half);
  if constexpr (kMost > 15)
    for (__m256i& h : half) h = _mm256_madd_epi16(h, ones);
  const __m256i low = _mm256_permute2x128_si256(half[0], half[1], 0x20);
  const __m256i high = _mm256_permute2x128_si256(half[0], half[1], 0x31);
  if constexpr (kMost > 15) return _mm256_add_epi32(low, high);
  return _mm256_madd_epi16(_mm256_add_epi16(low, high), ones);
}

// The same of 8 rows of unsigned weights with a scale for each half, times x: the offset is taken off in 16 bits.
template <class F>
inline __m256i sum_scaled_halves(const __m256i* v, __m256i x, const typename F::Scales& scales, int b) {
  constexpr int kLargest = F::kMost - F::kOffset > F::kOffset ? F::kMost - F::kOffset : F::kOffset;
  static_assert(4 * 2 * kLargest * 127 < 1 << 15, "16 bits hold the sums");
  __m256i half[2];
  sum_words(v, half);
  if constexpr (F::kOffset > 0) {
    __m256i offset = _mm256_maddubs_epi16(_mm256_set1_epi8(F::kOffset), x);
    offset = _mm256_add_epi16(offset, _mm256_shuffle_epi32(offset, 0x4e));
    offset = _mm256_add_epi16(offset, _mm256_shuffle_epi32(offset, 0xb1));
    for (__m256i& h : half) h = _mm256_sub_epi16(h, offset);
  }
  const __m256i first = _mm256_permute2x128_si256(half[0], half[1], 0x20);
  const __m256i second = _mm256_permute2x128_si256(half[0], half[1], 0x31);
  return _mm256_add_epi32(_mm256_madd_epi16(first, scales.half(b, 0)), _mm256_madd_epi16(second, scales.half(b, 1)));
}

// 8 rows times kTokens tokens, from token i on.
template <class P, class F, int kTokens>
void few_tile(const MatmulArgs& a, int i, const uint8_t* const* row, const Upcoming<F, kLanes>& upcoming, __m256* acc) {
  constexpr bool kInWords = P::kWords && !F::kSigned && !F::kHalves;
  const int blocks = a.k / kBlock;
  for (int t = 0; t < kTokens; ++t) acc[t] = _mm256_setzero_ps();
  for (int first = 0; first < blocks; first += F::kBlocks) {
    const size_t at = static_cast<size_t>(first / F::kBlocks) * F::kBytes;
    const typename F::Scales scales(row, at);
#pragma GCC unroll 8  // shifts and masks become constants
    for (int b = 0; b < F::kBlocks; ++b) {
      if constexpr (F::kHalves) asm volatile("" ::: "memory");  // else GCC keeps bytes that blocks share, and spills
      upcoming.prefetch(first + b);
      __m256i w[kLanes];
      if constexpr (kTokens > 1)
        for (int r = 0; r < kLanes; ++r) w[r] = F::weights(row[r] + at, b);
      for (int t = 0; t < kTokens; ++t) {
        const size_t block = static_cast<size_t>(i + t) * static_cast<size_t>(blocks) + static_cast<size_t>(first + b);
        const __m256i x = load_bytes(a.xq + block * kBlock);
        __m256i part[kLanes];
        for (int r = 0; r < kLanes; ++r) {
          const __m256i wr = kTokens > 1 ? w[r] : F::weights(row[r] + at, b);
          if constexpr (F::kHalves)
            part[r] = _mm256_maddubs_epi16(wr, x);
          else if constexpr (kInWords)
            part[r] = P::words(wr, x);
          else
            part[r] = F::kSigned ? P::few(wr, x) : P::few_unsigned(wr, x);
        }
        __m256i dot;
        if constexpr (F::kHalves)
          dot = sum_scaled_halves<F>(part, x, scales, b);
        else if constexpr (kInWords)
          dot = sum_word_rows<F::kMost>(part);
        else
          dot = sum_rows(part);
        const __m256i sums = load_sums(a.xs + 2 * block);
        constexpr int kTooLarge = F::kHalves ? 0 : F::kSigned ? (P::kFlipped ? 128 : 0) : F::kOffset;
        if constexpr (kTooLarge > 0) dot = _mm256_sub_epi32(dot, times_sum(sums, kTooLarge));
        acc[t] = add_block<F>(acc[t], dot, scales.d(b), _mm256_set1_ps(a.xd[block]), sums, scales,
                              [&](const auto& from, int h) { return from.min(b, h); });
      }
    }
  }
}

constexpr int kFewTokens = 3;

// 8 rows at a time, each of them unpacked once for all tokens.
template <class P, class F>
void matmul_few(const MatmulArgs& a) {
  for (int j = a.n0; j < a.n1; j += kLanes) {
    const int count = a.n1 - j < kLanes ? a.n1 - j : kLanes;
    const uint8_t* row[kLanes];
    row_pointers<kLanes>(a, j, count, row);
    const Upcoming<F, kLanes> upcoming(a, j);
    __m256 acc[kFewTokens];
    if (a.m == 1)
      few_tile<P, F, 1>(a, 0, row, upcoming, acc);
    else if (a.m == 2)
      few_tile<P, F, 2>(a, 0, row, upcoming, acc);
    else
      few_tile<P, F, 3>(a, 0, row, upcoming, acc);
    for (int t = 0; t < a.m; ++t) store_lanes(a.y + static_cast<size_t>(t) * a.ldy + j, acc[t], count);
  }
}

// ---- many tokens ----

constexpr int kPanelRows = 16;
// A panel stays in a 32 KiB L1 beside the tokens of a tile.
constexpr size_t kPanelBytes = 22 * 1024;

// What a block of a panel holds beside its weights, for each row.
template <int n>
struct Minima {
  float min[n][kPanelRows];
};
template <>
struct Minima<0> {};
template <bool halves>
struct HalfParts {
  int16_t scale[2][kPanelRows][2];  // of each half, twice
  int16_t shift[kPanelRows][2];     // -kOffset times the scales of both
};
template <>
struct HalfParts<false> {};
template <class F>
struct BlockScales : Minima<F::kMins>, HalfParts<F::kHalves> {
  float d[kPanelRows];

  // Rows h … h + 7, from block b of a file's block.
  void set(int h, const typename F::Scales& from, int b) {
    _mm256_store_ps(d + h, from.d(b));
    if constexpr (F::kMins > 0)
      for (int i = 0; i < F::kMins; ++i) _mm256_store_ps(this->min[i] + h, from.min(b, i));
    if constexpr (F::kHalves) {
      const __m256i pairs = from.pairs(b), low = _mm256_set1_epi32(0x01000100), lane = spread_lanes();
      for (int i = 0; i < 2; ++i) {
        const __m256i bytes = _mm256_add_epi8(lane, _mm256_add_epi8(low, _mm256_set1_epi8(static_cast<char>(2 * i))));
        _mm256_store_si256(reinterpret_cast<__m256i*>(this->scale[i][h]), _mm256_shuffle_epi8(pairs, bytes));
      }
      const __m256i shifts = _mm256_mullo_epi16(pairs, _mm256_set1_epi16(static_cast<short>(-F::kOffset)));
      _mm256_store_si256(reinterpret_cast<__m256i*>(this->shift[h]), shifts);
    }
  }
  // The first byte of each lane's 4, four times.
  static __m256i spread_lanes() {
    return _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
  }
};

// A block of unsigned weights, signed ones as w + 128.
template <class F>
struct UnsignedBlock : BlockScales<F> {
  uint8_t w[kBlock / 4][kPanelRows][4];

  void pack(int h, const __m256i* group) {
    for (int e = 0; e < kBlock / 4; ++e)
      _mm256_store_si256(reinterpret_cast<__m256i*>(w[e][h]), F::kSigned ? flip(group[e]) : group[e]);
  }
};

// Weights that are packed after those at hand: rows `stride` apart of `bytes` each. While tiles are multiplied memory
// has time for them; they go to L2, since panels and tokens fill L1.
struct Ahead {
  const uint8_t* data;
  size_t stride, bytes;
  int rows;

  // The b-th line of each row, if it has one.
  void prefetch(int b) const {
    const size_t at = static_cast<size_t>(b) * 64;
    if (at >= bytes) return;
    for (int r = 0; r < rows; ++r) _mm_prefetch(data + static_cast<size_t>(r) * stride + at, _MM_HINT_T1);
  }
  // The part-th of so many parts of the rows.
  Ahead part(int part, int parts) const {
    const int first = rows * part / parts;
    return {data + static_cast<size_t>(first) * stride, stride, bytes, rows * (part + 1) / parts - first};
  }
};

// Panels times some tokens: y[t · ldy + r], r < count, is made if `first`, else added to.
template <class Block>
struct Tile {
  const Block* panel;  // their first blocks, their second blocks ...
  int blocks;
  bool first;
  const int8_t* xq;
  size_t ldq;
  const float* xd;
  const int16_t* xs;
  size_t ldd;  // of xd, and of pairs in xs
  float* y;
  size_t ldy;
  int count;
  Ahead ahead;

  const int8_t* x(int i, int b) const { return xq + static_cast<size_t>(i) * ldq + b * kBlock; }
  float dx(int i, int b) const { return xd[static_cast<size_t>(i) * ldd + static_cast<size_t>(b)]; }
  const int16_t* sums_at(int i, int b) const {
    return xs + 2 * (static_cast<size_t>(i) * ldd + static_cast<size_t>(b));
  }
  __m256i sums(int i, int b) const { return load_sums(sums_at(i, b)); }
};

// Every kPanels-th block of `panel`.
template <class P, class F>
void pack_panel(const uint8_t* const* row, int first, int count, typename P::template Panel<F>::Block* panel) {
  constexpr int kStride = P::template Panel<F>::kPanels;
  for (int b = 0; b < count; b += F::kBlocks) {
    const size_t at = static_cast<size_t>((first + b) / F::kBlocks) * F::kBytes;
    const typename F::Scales low(row, at), high(row + kLanes, at);
    for (int s = 0; s < F::kBlocks; ++s) {
      for (int h = 0; h < kPanelRows; h += kLanes) {
        __m256i w[kLanes];
        for (int r = 0; r < kLanes; ++r) w[r] = F::weights(row[h + r] + at, s);
        transpose_groups(w);
        panel[(b + s) * kStride].pack(h, w);
        panel[(b + s) * kStride].set(h, h == 0 ? low : high, s);
      }
    }
  }
}

template <class Panel, int kTokens>
void run_tile(int tokens, const Tile<typename Panel::Block>& t) {
  if constexpr (kTokens > 0) {
    if (tokens == kTokens) return Panel::template tile<kTokens>(t);
    run_tile<Panel, kTokens - 1>(tokens, t);
  }
}

template <class P, class F>
void matmul_panels(const MatmulArgs& a) {
  using Panel = typename P::template Panel<F>;
  using Block = typename Panel::Block;
  constexpr int kPanels = Panel::kPanels, kRows = kPanels * kPanelRows;
  constexpr int kMost = static_cast<int>(kPanelBytes / kPanels / sizeof(Block)) / F::kBlocks * F::kBlocks;
  static_assert(kPanelBytes <= kScratchBytes, "a panel fits");
  static_assert(sizeof(Block) % 32 == 0, "blocks are aligned");
  Block* panel = static_cast<Block*>(a.scratch);
  const int blocks = a.k / kBlock;
  const int ranges = (blocks + kMost - 1) / kMost;
  const int depth = ((blocks + ranges - 1) / ranges + F::kBlocks - 1) / F::kBlocks * F::kBlocks;
  const int tiles = (a.m + Panel::kTokens - 1) / Panel::kTokens;
  const size_t ldq = static_cast<size_t>(a.k), ldd = static_cast<size_t>(blocks);
  const auto weights = [&](int j, int b) -> Ahead {  // of the panels of rows j …, from block b on
    const int n = blocks - b < depth ? blocks - b : depth;
    return {static_cast<const uint8_t*>(a.w) + static_cast<size_t>(j) * a.w_stride +
                static_cast<size_t>(b / F::kBlocks) * F::kBytes,
            a.w_stride, static_cast<size_t>(n / F::kBlocks) * F::kBytes, a.n1 - j < kRows ? a.n1 - j : kRows};
  };
  for (int line = 0; line < depth; ++line) weights(a.n0, 0).prefetch(line);
  for (int j = a.n0; j < a.n1; j += kRows) {
    const int count = a.n1 - j < kRows ? a.n1 - j : kRows;
    const uint8_t* row[kRows];
    row_pointers<kRows>(a, j, count, row);
    for (int b = 0; b < blocks; b += depth) {  // y holds the sums from one range of blocks to the next
      const int n = blocks - b < depth ? blocks - b : depth;
      for (int p = 0; p < kPanels; ++p) pack_panel<P, F>(row + p * kPanelRows, b, n, panel + p);
      const Ahead next = b + depth < blocks ? weights(j, b + depth)
                         : j + kRows < a.n1 ? weights(j + kRows, 0)
                                            : Ahead{};
      for (int tile = 0; tile < tiles; ++tile) {  // of as even sizes as can be: few tokens hide less
        const int i = static_cast<int>(static_cast<int64_t>(a.m) * tile / tiles);
        const int end = static_cast<int>(static_cast<int64_t>(a.m) * (tile + 1) / tiles);
        const size_t t = static_cast<size_t>(i);
        run_tile<Panel, Panel::kTokens>(end - i, {panel, n, b == 0, a.xq + t * ldq + b * kBlock, ldq,
                                                  a.xd + t * ldd + b, a.xs + 2 * (t * ldd + static_cast<size_t>(b)),
                                                  ldd, a.y + t * a.ldy + j, a.ldy, count, next.part(tile, tiles)});
      }
    }
  }
}

constexpr int kHalfRegisters = kPanelRows / kLanes;

// Panel::tile for registers of 8 rows. Panel::dots<n>(tile, b, dot) makes block b's integers, dot[n][kHalfRegisters].
template <class Panel, class F, int kTokens>
inline void tile8(const Tile<typename Panel::Block>& t) {
  __m256 acc[kTokens][kHalfRegisters];
  for (int i = 0; i < kTokens; ++i)
    for (int v = 0; v < kHalfRegisters; ++v)
      acc[i][v] = t.first ? _mm256_setzero_ps()
                          : load_lanes(t.y + static_cast<size_t>(i) * t.ldy + v * kLanes, t.count - v * kLanes);
  for (int b = 0; b < t.blocks; ++b) {
    t.ahead.prefetch(b);
    const typename Panel::Block& block = t.panel[b];
    __m256i dot[kTokens][kHalfRegisters];
    Panel::template dots<kTokens>(t, b, dot);
    for (int i = 0; i < kTokens; ++i) {
      const __m256 dx = _mm256_set1_ps(t.dx(i, b));
      for (int v = 0; v < kHalfRegisters; ++v)
        acc[i][v] = add_block<F>(acc[i][v], dot[i][v], _mm256_load_ps(block.d + v * kLanes), dx, t.sums(i, b), block,
                                 [&](const auto& from, int h) { return _mm256_load_ps(from.min[h] + v * kLanes); });
    }
  }
  for (int i = 0; i < kTokens; ++i)
    for (int v = 0; v < kHalfRegisters; ++v)
      store_lanes(t.y + static_cast<size_t>(i) * t.ldy + v * kLanes, acc[i][v], t.count - v * kLanes);
}

template <class P, class F>
void matmul_blocks(const MatmulArgs& a) {
  if constexpr (P::kSome > 0) {
    if (a.m >= kFewTokens && a.m <= P::kSome) return P::template some<F>(a);
  }
  a.m <= kFewTokens ? matmul_few<P, F>(a) : matmul_panels<P, F>(a);
}

// All types' matmul, with a table's products.
template <class P>
void install_matmul(Table& t) {
  each_format([&](DType type, auto f) { t.matmul[static_cast<int>(type)] = matmul_blocks<P, decltype(f)>; });
}

}  // namespace
}  // namespace lora_edge::avx2
