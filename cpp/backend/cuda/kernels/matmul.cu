// Linears in blocks for many rows: tiles of 64 outputs by 32 rows, a group of four blocks of the depth at a time, in
// the order of matvec.cu.
#include "device.h"
//
#include "args.h"
#include "functions.h"
#include "load.h"
//
#include "linear.h"

namespace lora_edge::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kOutputs = 64, kRows = 32;  // of a tile
constexpr int kGroup = 4;                 // blocks of 32 whose products are added before the sum
constexpr int kWords = kGroup * 8 + 4;    // of a row of a tile: four bytes each, and as many as keep banks apart

// A group of the depth: bytes of w [kOutputs] and x [kRows], scales beside them.
struct Tile {
  static constexpr bool kHalves = false;
  int w[kOutputs * kWords], x[kRows * kWords];
  float dw[kOutputs * kGroup], dx[kRows * kGroup];
};

// What blocks of other kinds than the plain ones have beside it, for each half.
struct HalvesTile : Tile {
  static constexpr bool kHalves = true;
  int scale[kOutputs * kGroup * 2];
  float min[kOutputs * kGroup * 2], sums[kRows * kGroup * 2];  // sums: of x
};

template <int kind, class AnyTile>
DEVICE void fill_weights(const Matrix& m, int j0, int b0, int n_blocks, AnyTile& tile) {
  for (int i = thread_id(); i < kOutputs * kGroup * 2; i += kThreads) {
    const int j = i / (kGroup * 2), b = i / 2 % kGroup, half = i % 2;
    const bool there = j0 + j < m.n && b0 + b < n_blocks;
    const long long block = static_cast<long long>(j0 + j) * n_blocks + b0 + b;
    const Words w = there ? load_block<kind>(m, block, half) : Words{};
    for (int e = 0; e < 4; ++e) tile.w[j * kWords + b * 8 + half * 4 + e] = w.w[e];
    const Scales scales = there ? load_scales<kind>(m, block, half) : Scales{};
    if (half == 0) tile.dw[j * kGroup + b] = scales.d;
    if constexpr (AnyTile::kHalves) {
      tile.scale[i] = scales.scale;
      tile.min[i] = scales.min;
    }
  }
}

template <class AnyTile>
DEVICE void fill_rows(const LinearArgs& a, int row0, int b0, int n_blocks, AnyTile& tile) {
  for (int i = thread_id(); i < kRows * kGroup * 2; i += kThreads) {
    const int row = i / (kGroup * 2), b = i / 2 % kGroup, half = i % 2;
    const bool there = row0 + row < a.m && b0 + b < n_blocks;
    const long long block = static_cast<long long>(row0 + row) * n_blocks + b0 + b;
    const Words x = there ? load_words(reinterpret_cast<const int*>(a.xq) + block * 8 + half * 4) : Words{};
    for (int e = 0; e < 4; ++e) tile.x[row * kWords + b * 8 + half * 4 + e] = x.w[e];
    if (half == 0) tile.dx[row * kGroup + b] = there ? load_cached(a.xd + block) : 0.0f;
    if constexpr (AnyTile::kHalves) tile.sums[i] = static_cast<float>(sum_of(x));
  }
}

constexpr int kMine = 4;  // a thread's part of a tile is kMine by kMine outputs and rows
using Sums = float[kMine][kMine];
using Integers = int[kMine][kMine];

constexpr int kWhole = 2;  // both halves of a block

// Products of bytes by four at a time: outputs 16 apart, rows 8 apart.
struct Dot4 {
  static DEVICE int output(int o, int /*r*/) { return thread_id() % 16 + 16 * o; }
  static DEVICE int row(int /*o*/, int r) { return thread_id() / 16 + 8 * r; }
  template <int half>
  static DEVICE void products(const Tile& tile, int b, Integers& sum) {
    const int first = b * 8 + (half == 1 ? 4 : 0);
#pragma unroll 2
    for (int e = first; e < first + (half == kWhole ? 8 : 4); ++e) {
      int w[kMine], x[kMine];
#pragma unroll
      for (int o = 0; o < kMine; ++o) w[o] = tile.w[output(o, 0) * kWords + e];
#pragma unroll
      for (int r = 0; r < kMine; ++r) x[r] = tile.x[row(0, r) * kWords + e];
#pragma unroll
      for (int o = 0; o < kMine; ++o)
#pragma unroll
        for (int r = 0; r < kMine; ++r) sum[o][r] = dot4(w[o], x[r], sum[o][r]);
    }
  }
};

#if HAS_MMA_S8
// Products of whole blocks, 16 outputs by 8 rows, by tensor cores. A warp has 16 outputs; a thread's fragments are
// mma_s8's: `o` counts the four tiles of 8 rows, `r` the numbers of a fragment.
struct Mma {
  static DEVICE int lane() { return thread_id() % 32; }
  static DEVICE int output(int /*o*/, int r) { return thread_id() / 32 * 16 + lane() / 4 + 8 * (r / 2); }
  static DEVICE int row(int o, int r) { return 8 * o + lane() % 4 * 2 + r % 2; }
  template <int half>  // of the other half's x zeros are taken
  static DEVICE void products(const Tile& tile, int b, Integers& sum) {
    const int at = b * 8 + lane() % 4, j = output(0, 0) * kWords + at;
    const unsigned w[4] = {unsigned(tile.w[j]), unsigned(tile.w[j + 8 * kWords]), unsigned(tile.w[j + 4]),
                           unsigned(tile.w[j + 8 * kWords + 4])};
#pragma unroll
    for (int o = 0; o < kMine; ++o) {
      const int i = (8 * o + lane() / 4) * kWords + at;
      const unsigned x[2] = {half == 1 ? 0u : unsigned(tile.x[i]), half == 0 ? 0u : unsigned(tile.x[i + 4])};
      mma_s8(sum[o], w, x);
    }
  }
};
#endif

// The integers of block b, with the scales of its halves.
template <class Unit>
DEVICE void integers(const Tile& tile, int b, Integers& sum) {
  Unit::template products<kWhole>(tile, b, sum);
}
template <class Unit, int half>
DEVICE void add_half(const HalvesTile& tile, int b, Integers& sum) {
  Integers part = {};
  Unit::template products<half>(tile, b, part);
#pragma unroll
  for (int o = 0; o < kMine; ++o)
#pragma unroll
    for (int r = 0; r < kMine; ++r) sum[o][r] += part[o][r] * tile.scale[(Unit::output(o, r) * kGroup + b) * 2 + half];
}
template <class Unit>
DEVICE void integers(const HalvesTile& tile, int b, Integers& sum) {
  add_half<Unit, 0>(tile, b, sum);
  add_half<Unit, 1>(tile, b, sum);
}

// s · f of one block of the group, or fma(s, f, before), and what its minima add.
template <class Unit, class AnyTile>
DEVICE void block_products(const AnyTile& tile, int b, const float (*before)[kMine], Sums& out) {
  Integers sum = {};
  integers<Unit>(tile, b, sum);
#pragma unroll
  for (int o = 0; o < kMine; ++o)
#pragma unroll
    for (int r = 0; r < kMine; ++r) {
      const int output = Unit::output(o, r) * kGroup + b, row = Unit::row(o, r) * kGroup + b;
      const float s = tile.dw[output] * tile.dx[row], f = static_cast<float>(sum[o][r]);
      out[o][r] = before ? fma_(s, f, before[o][r]) : s * f;
      if constexpr (AnyTile::kHalves)
        out[o][r] += tile.min[2 * output] * tile.dx[row] * tile.sums[2 * row] +
                     tile.min[2 * output + 1] * tile.dx[row] * tile.sums[2 * row + 1];
    }
}

// acc += fma(s1, f1, s0 · f0) + fma(s3, f3, s2 · f2)
template <class Unit, class AnyTile>
DEVICE void multiply(const AnyTile& tile, Sums& acc) {
  Sums first, second, product;
  block_products<Unit>(tile, 0, nullptr, product);
  block_products<Unit>(tile, 1, product, first);
  block_products<Unit>(tile, 2, nullptr, product);
  block_products<Unit>(tile, 3, product, second);
#pragma unroll
  for (int o = 0; o < kMine; ++o)
#pragma unroll
    for (int r = 0; r < kMine; ++r) acc[o][r] += first[o][r] + second[o][r];
}

DEVICE void fill_weights(const Matrix& m, int j0, int b0, int n_blocks, Tile& tile) {
  if (m.kind == kQ8) return fill_weights<kQ8>(m, j0, b0, n_blocks, tile);
  fill_weights<kQ4>(m, j0, b0, n_blocks, tile);
}
DEVICE void fill_weights(const Matrix& m, int j0, int b0, int n_blocks, HalvesTile& tile) {
  with_kind(m.kind, [&](auto k) { fill_weights<k.kind>(m, j0, b0, n_blocks, tile); });
}

// block_x: 64 outputs of one linear; block_y: 32 rows.
template <class Unit, class AnyTile>
DEVICE void matmul(const LinearArgs& a, AnyTile& tile) {
  int x = block_x();
  const int l = linear_of(a, x, [](int) { return kOutputs; });
  const LinearOne& one = a.linears[l];
  const int j0 = x * kOutputs, row0 = block_y() * kRows, n_blocks = a.k / 32;
  Sums acc = {};
  for (int b0 = 0; b0 < n_blocks; b0 += kGroup) {
    fill_weights(one.w, j0, b0, n_blocks, tile);
    fill_rows(a, row0, b0, n_blocks, tile);
    sync();
    multiply<Unit>(tile, acc);
    sync();
  }
#pragma unroll
  for (int o = 0; o < kMine; ++o)
#pragma unroll
    for (int r = 0; r < kMine; ++r) {
      const int j = j0 + Unit::output(o, r), row = row0 + Unit::row(o, r);
      if (j < one.w.n && row < a.m) finish(a, one, row, j, acc[o][r]);
    }
}

}  // namespace

#if !HAS_MMA_S8 || defined(EVERY_KERNEL)
KERNEL(matmul_dot4, LinearArgs, 128) {
  SHARED Tile tile;
  matmul<Dot4>(a, tile);
}

KERNEL(matmul_halves_dot4, LinearArgs, 128) {
  SHARED HalvesTile tile;
  matmul<Dot4>(a, tile);
}
#endif

#if HAS_MMA_S8
KERNEL(matmul_mma, LinearArgs, 128) {
  SHARED Tile tile;
  matmul<Mma>(a, tile);
}

KERNEL(matmul_halves_mma, LinearArgs, 128) {
  SHARED HalvesTile tile;
  matmul<Mma>(a, tile);
}
#endif

}  // namespace lora_edge::cuda
