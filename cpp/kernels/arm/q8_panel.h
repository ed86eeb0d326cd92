// Q8_0 times several tokens where a CPU has dot products: lanes are rows of W, and nothing is folded. Included, like
// neon_common.h, as each file's own copy.
//
// A tile is 4 rows × up to 8 tokens. A block of its rows is 8 registers, in the order that the products want, through
// which the block's tokens pass. For many tokens the rows are packed in that order first; for fewer they are arranged
// in registers each time.
//
// A policy P knows the products:
//   kGroup          tokens that one product serves; a group has as many accumulators of 4 lanes
//   kScales         vectors that the scales of 4 rows take
//   kTokenBytes     of scratch for a block of a token
//   arrange(w, d)   w: row r's halves in w[2 r] and w[2 r + 1]; d[0]: the rows' scales. Both to P's order.
//   pack(a, i, tokens, b, blocks, out)  what P wants of tokens i and on, blocks b and on, in scratch
//   Tokens<G>(a, i, b, packed)  walks blocks b and on of G groups of tokens, the first of them i
//   multiply(w, d, tokens, acc) adds the products with the tokens' next block to acc[G · kGroup]
//   swap(acc)       a group's accumulators between P's lanes and one token each; its own inverse
#pragma once

#include <array>
#include <utility>

#include "kernels/arm/q8_rows.h"

namespace lora_edge::neon {
namespace {

constexpr int kTileRows = 4, kTileTokens = 8;
constexpr int kPanelBlocks = 32;   // depth of packed rows
constexpr int kPanelTiles = 4;     // packed rows: 18 KiB, in a 32 KiB L1 beside the 9 KiB of a tile's tokens
constexpr int kManyTokens = 24;    // from here on packing rows pays
constexpr int kChunkTokens = 256;  // at most, of kPanelBlocks blocks; fewer than kManyTokens go deeper
constexpr int kFewBlocks = kPanelBlocks * kChunkTokens / kManyTokens;

template <class P>
struct PanelBlock {
  int8_t w[8][16];
  float d[P::kScales][4];
};

__attribute__((noinline)) float32x4_t load_edge(const float* y, int count) { return load_some<DType::f32>(y, count); }
__attribute__((noinline)) void store_edge(float* y, float32x4_t v, int count) { store_some(y, v, count); }

// A block of 4 rows, from a panel or from the file.
template <class P>
struct PackedRows {
  explicit PackedRows(const PanelBlock<P>* panel) : at(reinterpret_cast<const uint8_t*>(panel)) {}
  void take(int8x16_t* w, float32x4_t* d) {
    int8x16_t v[8 + P::kScales];
    take_vectors<8 + P::kScales>(at, v);
    each<8>([&](auto e) { w[e] = v[e]; });
    each<P::kScales>([&](auto s) { d[s] = vreinterpretq_f32_s8(v[8 + s]); });
  }
  const uint8_t* at;
};

template <class P>
struct FileRows {
  FileRows(const uint8_t* const* rows, int block) {
    each<kTileRows>([&](auto r) { row[r] = rows[r] + static_cast<size_t>(block) * sizeof(BlockQ8_0); });
  }
  void take(int8x16_t* w, float32x4_t* d) {
    uint16x4_t halves;
    each<kTileRows>([&](auto r) { take_scale<r>(row[r], halves); });
    each<kTileRows>([&](auto r) { load_pair<-32>(row[r], w[2 * r], w[2 * r + 1]); });
    d[0] = vcvt_f32_f16(vreinterpret_f16_u16(halves));
    P::arrange(w, d);
  }
  const uint8_t* row[kTileRows];
};

// What a tile covers: 4 rows of W from j on, tokens [i, i + tokens), blocks [b, b + blocks).
struct TileRange {
  int i, tokens, j, b, blocks;
};

// Adds the products of G groups of tokens to y, or writes them where b is 0. Where rows or tokens are missing, to a
// copy of that part of y.
template <class P, int G, class Rows>
__attribute__((flatten)) void panel_tile(const MatmulArgs& a, const TileRange& t, Rows rows, const uint8_t* packed) {
  constexpr int C = G * P::kGroup;
  typename P::template Tokens<G> x(a, t.i, t.b, packed);
  float* y = a.y + static_cast<size_t>(t.i) * a.ldy + t.j;
  size_t ldy = a.ldy;
  float32x4_t part[C];
  const bool whole = t.j + kTileRows <= a.n1 && t.tokens == C;
  if (!whole) {
    for (int c = 0; c < C; ++c) part[c] = load_edge(y + static_cast<size_t>(c) * ldy, c < t.tokens ? a.n1 - t.j : 0);
    y = reinterpret_cast<float*>(part);
    ldy = kTileRows;
  }
  float32x4_t acc[C];
  each<C>([&](auto c) { acc[c] = t.b == 0 ? vdupq_n_f32(0.0f) : vld1q_f32(y + c * ldy); });
  each<G>([&](auto g) { P::swap(acc + g * P::kGroup); });
  for (int b = t.blocks; b > 0; --b) {
    int8x16_t w[8];
    float32x4_t d[P::kScales];
    rows.take(w, d);
    P::multiply(w, d, x, acc);
  }
  each<G>([&](auto g) { P::swap(acc + g * P::kGroup); });
  each<C>([&](auto c) { vst1q_f32(y + c * ldy, acc[c]); });
  if (!whole)
    for (int c = 0; c < t.tokens; ++c)
      store_edge(a.y + static_cast<size_t>(t.i + c) * a.ldy + t.j, part[c], a.n1 - t.j);
}

template <class P, class Rows, int... G>
constexpr auto tiles_of(std::integer_sequence<int, G...>) {
  return std::array<decltype(&panel_tile<P, 1, Rows>), sizeof...(G)>{panel_tile<P, G + 1, Rows>...};
}

// Packs 4 rows of blocks, from the file.
template <class P>
__attribute__((flatten)) void pack_rows(FileRows<P> rows, int blocks, PanelBlock<P>* panel) {
  for (int b = 0; b < blocks; ++b) {
    int8x16_t w[8];
    float32x4_t d[P::kScales];
    rows.take(w, d);
    each<8>([&](auto e) { vst1q_s8(panel[b].w[e], w[e]); });
    each<P::kScales>([&](auto s) { vst1q_f32(panel[b].d[s], d[s]); });
  }
}

// Tokens [first, last), of which at most kChunkTokens.
template <class P>
void panel_matmul(const MatmulArgs& a, int first, int last) {
  constexpr std::make_integer_sequence<int, kTileTokens / P::kGroup> kGroups;
  constexpr auto kFromPanel = tiles_of<P, PackedRows<P>>(kGroups);
  constexpr auto kFromFile = tiles_of<P, FileRows<P>>(kGroups);
  constexpr size_t kPanel = sizeof(PanelBlock<P>[kPanelTiles][kPanelBlocks]);
  static_assert(kPanel + P::kTokenBytes * kPanelBlocks * (kChunkTokens + 1) <= kScratchBytes, "panels and tokens fit");
  auto* panel = static_cast<PanelBlock<P>(*)[kPanelBlocks]>(a.scratch);
  uint8_t* const x = static_cast<uint8_t*>(a.scratch) + kPanel;

  const int m = last - first, blocks = a.k / kBlock;
  const bool many = m >= kManyTokens;
  const int range = many ? kPanelBlocks : kFewBlocks;       // y holds the sums from one range of blocks to the next
  const int n_tiles = (m + kTileTokens - 1) / kTileTokens;  // all but the last of the same size
  const int step = ((m + n_tiles - 1) / n_tiles + P::kGroup - 1) / P::kGroup * P::kGroup;
  TileRange t{};
  for (t.b = 0; t.b < blocks; t.b += range) {
    t.blocks = blocks - t.b < range ? blocks - t.b : range;
    const auto for_tokens = [&](auto&& f) {
      for (t.i = first; t.i < last; t.i += step) {
        t.tokens = last - t.i < step ? last - t.i : step;
        f(x + static_cast<size_t>(t.i - first) * static_cast<size_t>(range) * P::kTokenBytes);
      }
    };
    for_tokens([&](uint8_t* packed) { P::pack(a, t.i, t.tokens, t.b, t.blocks, packed); });
    for (int j0 = a.n0; j0 < a.n1; j0 += kPanelTiles * kTileRows) {
      const uint8_t* row[kPanelTiles * kTileRows];
      row_pointers<kPanelTiles * kTileRows>(a, j0, row);
      const int rows = (a.n1 - j0 + kTileRows - 1) / kTileRows;
      const int n_panels = rows < kPanelTiles ? rows : kPanelTiles;
      if (many)
        for (int r = 0; r < n_panels; ++r) pack_rows<P>({row + r * kTileRows, t.b}, t.blocks, panel[r]);
      for_tokens([&](const uint8_t* packed) {
        const size_t tile = static_cast<size_t>((t.tokens - 1) / P::kGroup);
        for (int r = 0; r < n_panels; ++r) {
          t.j = j0 + r * kTileRows;
          if (many)
            kFromPanel[tile](a, t, PackedRows<P>(panel[r]), packed);
          else
            kFromFile[tile](a, t, {row + r * kTileRows, t.b}, packed);
        }
      });
    }
  }
}

template <class P>
void panel_matmul(const MatmulArgs& a) {
  for (int i = 0; i < a.m; i += kChunkTokens) panel_matmul<P>(a, i, a.m - i < kChunkTokens ? a.m : i + kChunkTokens);
}

}  // namespace
}  // namespace lora_edge::neon
