// Linears in blocks for many rows: tiles of 64 outputs by 32 rows, a group of four blocks of the depth at a time, in
// the order of matvec.cu.
#include "device.h"
//
#include "args.h"
#include "functions.h"
#include "load.h"
//
#include "epilogue.h"

namespace lora_edge::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kOutputs = 64, kRows = 32;  // of a tile
constexpr int kGroup = 4;                 // blocks of 32 whose products are added before the sum
constexpr int kWords = kGroup * 8 + 4;    // of a row of a tile: four bytes each, and as many as keep banks apart

// A group of the depth: bytes of w [kOutputs] and x [kRows], scales beside them.
struct Tile {
  int w[kOutputs * kWords], x[kRows * kWords];
  float dw[kOutputs * kGroup], dx[kRows * kGroup];
};

template <int kind>
DEVICE void fill_weights(const Matrix& m, int j0, int b0, int n_blocks, Tile& tile) {
  for (int i = thread_id(); i < kOutputs * kGroup * 2; i += kThreads) {
    const int j = i / (kGroup * 2), b = i / 2 % kGroup, half = i % 2;
    const bool there = j0 + j < m.n && b0 + b < n_blocks;
    const long long block = static_cast<long long>(j0 + j) * n_blocks + b0 + b;
    const Words w = there ? load_block<kind>(m, block, half) : Words{};
    for (int e = 0; e < 4; ++e) tile.w[j * kWords + b * 8 + half * 4 + e] = w.w[e];
    if (half == 0) tile.dw[j * kGroup + b] = there ? block_scale(m, block) : 0.0f;
  }
}

DEVICE void fill_rows(const LinearArgs& a, int row0, int b0, int n_blocks, Tile& tile) {
  for (int i = thread_id(); i < kRows * kGroup * 2; i += kThreads) {
    const int row = i / (kGroup * 2), b = i / 2 % kGroup, half = i % 2;
    const bool there = row0 + row < a.m && b0 + b < n_blocks;
    const long long block = static_cast<long long>(row0 + row) * n_blocks + b0 + b;
    const Words x = there ? load_words(reinterpret_cast<const int*>(a.xq) + block * 8 + half * 4) : Words{};
    for (int e = 0; e < 4; ++e) tile.x[row * kWords + b * 8 + half * 4 + e] = x.w[e];
    if (half == 0) tile.dx[row * kGroup + b] = there ? load_cached(a.xd + block) : 0.0f;
  }
}

constexpr int kMine = 4;  // a thread's part of a tile is kMine by kMine outputs and rows
using Sums = float[kMine][kMine];
using Integers = int[kMine][kMine];

// Products of bytes by four at a time: outputs 16 apart, rows 8 apart.
struct Dot4 {
  static DEVICE int output(int o, int /*r*/) { return thread_id() % 16 + 16 * o; }
  static DEVICE int row(int /*o*/, int r) { return thread_id() / 16 + 8 * r; }
  static DEVICE void products(const Tile& tile, int b, Integers& sum) {
#pragma unroll 2
    for (int e = b * 8; e < b * 8 + 8; ++e) {
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
  static DEVICE void products(const Tile& tile, int b, Integers& sum) {
    const int at = b * 8 + lane() % 4, j = output(0, 0) * kWords + at;
    const unsigned w[4] = {unsigned(tile.w[j]), unsigned(tile.w[j + 8 * kWords]), unsigned(tile.w[j + 4]),
                           unsigned(tile.w[j + 8 * kWords + 4])};
#pragma unroll
    for (int o = 0; o < kMine; ++o) {
      const int i = (8 * o + lane() / 4) * kWords + at;
      const unsigned x[2] = {unsigned(tile.x[i]), unsigned(tile.x[i + 4])};
      mma_s8(sum[o], w, x);
    }
  }
};
#endif

// s · f of one block of the group, or fma(s, f, before).
template <class Unit>
DEVICE void block_products(const Tile& tile, int b, const float (*before)[kMine], Sums& out) {
  Integers sum = {};
  Unit::products(tile, b, sum);
#pragma unroll
  for (int o = 0; o < kMine; ++o)
#pragma unroll
    for (int r = 0; r < kMine; ++r) {
      const float s = tile.dw[Unit::output(o, r) * kGroup + b] * tile.dx[Unit::row(o, r) * kGroup + b];
      const float f = static_cast<float>(sum[o][r]);
      out[o][r] = before ? fma_(s, f, before[o][r]) : s * f;
    }
}

// acc += fma(s1, f1, s0 · f0) + fma(s3, f3, s2 · f2)
template <class Unit>
DEVICE void multiply(const Tile& tile, Sums& acc) {
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

// block_x: 64 outputs of one linear; block_y: 32 rows.
template <class Unit, int kind>
DEVICE void matmul(const LinearArgs& a, int l, int j0, Tile& tile) {
  const LinearOne& one = a.linears[l];
  const int row0 = block_y() * kRows, n_blocks = a.k / 32;
  Sums acc = {};
  for (int b0 = 0; b0 < n_blocks; b0 += kGroup) {
    fill_weights<kind>(one.w, j0, b0, n_blocks, tile);
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

template <class Unit>
DEVICE void matmul(const LinearArgs& a, Tile& tile) {
  int x = block_x(), l = 0;
  for (; l + 1 < a.n_linears; ++l) {
    const int blocks = (a.linears[l].w.n + kOutputs - 1) / kOutputs;
    if (x < blocks) break;
    x -= blocks;
  }
  if (a.linears[l].w.kind == kQ8) {
    matmul<Unit, kQ8>(a, l, x * kOutputs, tile);
  } else {
    matmul<Unit, kQ4>(a, l, x * kOutputs, tile);
  }
}

}  // namespace

#if !HAS_MMA_S8 || defined(EVERY_KERNEL)
KERNEL(matmul_dot4, LinearArgs, 128) {
  SHARED Tile tile;
  matmul<Dot4>(a, tile);
}
#endif

#if HAS_MMA_S8
KERNEL(matmul_mma, LinearArgs, 128) {
  SHARED Tile tile;
  matmul<Mma>(a, tile);
}
#endif

}  // namespace lora_edge::cuda
