// Linears in blocks for many rows: tiles of 64 outputs by 32 or 64 rows, a group of four blocks of the depth at a time,
// in the order of matvec.cu.
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
constexpr int kOutputs = 64;            // of a tile
constexpr int kGroup = 4;               // blocks of 32 whose products are added before the sum
constexpr int kWords = kGroup * 8 + 4;  // of a row of a tile: four bytes each, and as many as keep banks apart

// A group of the depth: bytes of w [kOutputs] and x [kRows], scales beside them.
template <int rows>
struct alignas(16) Tile {
  static constexpr bool kHalves = false;
  static constexpr int kRows = rows;
  int w[kOutputs * kWords], x[kRows * kWords];
  float dw[kOutputs * kGroup], dx[kRows * kGroup];
};

// What blocks of other kinds than the plain ones have beside it, for each half.
struct HalvesTile : Tile<32> {
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
  for (int i = thread_id(); i < AnyTile::kRows * kGroup * 2; i += kThreads) {
    const int row = i / (kGroup * 2), b = i / 2 % kGroup, half = i % 2;
    const bool there = row0 + row < a.m && b0 + b < n_blocks;
    const long long block = static_cast<long long>(row0 + row) * n_blocks + b0 + b;
    const Words x = there ? load_words(reinterpret_cast<const int*>(a.xq) + block * 8 + half * 4) : Words{};
    for (int e = 0; e < 4; ++e) tile.x[row * kWords + b * 8 + half * 4 + e] = x.w[e];
    if (half == 0) tile.dx[row * kGroup + b] = there ? load_cached(a.xd + block) : 0.0f;
    if constexpr (AnyTile::kHalves) tile.sums[i] = static_cast<float>(sum_of(x));
  }
}

constexpr int kMine = 4;  // rows or outputs of a thread
using Integers = int[kMine][kMine];

constexpr int kWhole = 2;  // both halves of a block

// Products of bytes by four at a time: outputs 16 apart, rows 8 apart.
struct Dot4 {
  static constexpr int kTiles = kMine;
  using Sums = float[kTiles][kMine];
  static DEVICE int output(int o, int /*r*/) { return thread_id() % 16 + 16 * o; }
  static DEVICE int row(int /*o*/, int r) { return thread_id() / 16 + 8 * r; }
  template <int half, class AnyTile>
  static DEVICE void products(const AnyTile& tile, int b, Integers& sum) {
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
// mma_s8's: `o` counts the tiles of 8 rows, `r` the numbers of a fragment.
template <int rows>
struct Mma {
  static constexpr int kTiles = rows / 8;
  using Sums = float[kTiles][kMine];
  static DEVICE int lane() { return thread_id() % 32; }
  static DEVICE int output(int /*o*/, int r) { return thread_id() / 32 * 16 + lane() / 4 + 8 * (r / 2); }
  static DEVICE int row(int o, int r) { return 8 * o + lane() % 4 * 2 + r % 2; }
  template <class AnyTile>
  static DEVICE void load_outputs(const AnyTile& tile, int b, unsigned w[4]) {
    const int j = output(0, 0) * kWords + b * 8 + lane() % 4;
    for (int i = 0; i < 4; ++i) w[i] = static_cast<unsigned>(tile.w[j + i % 2 * 8 * kWords + i / 2 * 4]);
  }
  // Of the other half's x zeros are taken.
  template <int half, class AnyTile>
  static DEVICE void add(const AnyTile& tile, int o, int b, const unsigned w[4], int sum[kMine]) {
    const int i = (8 * o + lane() / 4) * kWords + b * 8 + lane() % 4;
    const unsigned x[2] = {half == 1 ? 0u : static_cast<unsigned>(tile.x[i]),
                           half == 0 ? 0u : static_cast<unsigned>(tile.x[i + 4])};
    mma_s8(sum, w, x);
  }
  template <int half, class AnyTile>
  static DEVICE void products(const AnyTile& tile, int b, Integers& sum) {
    unsigned w[4];
    load_outputs(tile, b, w);
#pragma unroll
    for (int o = 0; o < kMine; ++o) add<half>(tile, o, b, w, sum[o]);
  }
};
#endif

// The integers of block b, with the scales of its halves.
template <class Unit, int rows>
DEVICE void integers(const Tile<rows>& tile, int b, Integers& sum) {
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
DEVICE void block_products(const AnyTile& tile, int b, const float (*before)[kMine], typename Unit::Sums& out) {
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
DEVICE void multiply(const AnyTile& tile, int /*n_rows*/, typename Unit::Sums& acc) {
  typename Unit::Sums first, second, product;
  block_products<Unit>(tile, 0, nullptr, product);
  block_products<Unit>(tile, 1, product, first);
  block_products<Unit>(tile, 2, nullptr, product);
  block_products<Unit>(tile, 3, product, second);
#pragma unroll
  for (int o = 0; o < kMine; ++o)
#pragma unroll
    for (int r = 0; r < kMine; ++r) acc[o][r] += first[o][r] + second[o][r];
}

struct alignas(16) Four {
  float v[4];
};
static_assert(kGroup == 4, "a group's scales");

#if HAS_MMA_S8
// Integers below 2^22 that were added to kOne's bits are the float kOne and so many of its last places: a subtraction
// makes floats of them, of which a GPU does twice as many as conversions.
constexpr float kOne = 12582912.0f;  // 1.5 · 2^23

// The same of plain blocks by tensor cores, 8 rows after 8: a thread's weights of the group stay in registers, and what
// it needs beside the sums is one tile's.
DEVICE void multiply_plain(const Tile<64>& tile, int n_rows, Mma<64>::Sums& acc) {
  using Unit = Mma<64>;
  unsigned w[kGroup][4];
#pragma unroll
  for (int b = 0; b < kGroup; ++b) Unit::load_outputs(tile, b, w[b]);
  const auto scales = [](const float* of, int i) { return *reinterpret_cast<const Four*>(of + i * kGroup); };
  const Four dw[2] = {scales(tile.dw, Unit::output(0, 0)), scales(tile.dw, Unit::output(0, 2))};
  const auto rows = [&](int o) {
    int sum[kGroup][kMine];
#pragma unroll
    for (int b = 0; b < kGroup; ++b) {
      for (int& s : sum[b]) s = static_cast<int>(float_to_bits(kOne));
      Unit::add<kWhole>(tile, o, b, w[b], sum[b]);
    }
    const auto exact = [](int s) { return bits_to_float(static_cast<unsigned>(s)) - kOne; };
    const Four dx[2] = {scales(tile.dx, Unit::row(o, 0)), scales(tile.dx, Unit::row(o, 1))};
#pragma unroll
    for (int r = 0; r < kMine; ++r) {
      const Four &d = dw[r / 2], &e = dx[r % 2];
      float half[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int b = 2 * h;
        half[h] = fma_(d.v[b + 1] * e.v[b + 1], exact(sum[b + 1][r]), d.v[b] * e.v[b] * exact(sum[b][r]));
      }
      acc[o][r] += half[0] + half[1];
    }
  };
#pragma unroll
  for (int o = 0; o < Unit::kTiles; ++o)
    if (8 * o < n_rows) rows(o);
}
template <>
DEVICE void multiply<Mma<64>, Tile<64>>(const Tile<64>& tile, int n_rows, Mma<64>::Sums& acc) {
  multiply_plain(tile, n_rows, acc);
}
#endif

template <int rows>
DEVICE void fill_weights(const Matrix& m, int j0, int b0, int n_blocks, Tile<rows>& tile) {
  if (m.kind == kQ8) return fill_weights<kQ8>(m, j0, b0, n_blocks, tile);
  fill_weights<kQ4>(m, j0, b0, n_blocks, tile);
}
DEVICE void fill_weights(const Matrix& m, int j0, int b0, int n_blocks, HalvesTile& tile) {
  with_kind(m.kind, [&](auto k) { fill_weights<k.kind>(m, j0, b0, n_blocks, tile); });
}

// y += B·u of a part that all rows of the tile have, up to kRanks ranks at a time: both lie in the tile's place
// meanwhile, as floats.
constexpr int kRanks = 32, kRankWords = kRanks + 1;
static_assert(kRankWords <= kWords, "they fit");

template <class Unit, class AnyTile>
DEVICE void add_update(const LinearArgs& a, const LinearOne& one, const Part& part, int j0, int row0, AnyTile& tile,
                       typename Unit::Sums& acc) {
  for (int t0 = 0; t0 < part.r; t0 += kRanks) {
    const int n = part.r - t0 < kRanks ? part.r - t0 : kRanks;
    for (int i = thread_id(); i < kOutputs * n; i += kThreads) {
      const int j = i / n, t = i % n;
      const long long at = static_cast<long long>(j0 + j) * part.r + t0 + t;
      const float b = j0 + j < one.w.n ? load_float(part.b, part.b_kind, at) : 0.0f;
      tile.w[j * kRankWords + t] = static_cast<int>(float_to_bits(b));
    }
    for (int i = thread_id(); i < AnyTile::kRows * n; i += kThreads) {
      const int row = i / n, t = i % n;
      const long long at = static_cast<long long>(row0 + row) * a.ldu + part.u0 + t0 + t;
      const float u = row0 + row < a.m ? load_cached(one.u + at) : 0.0f;
      tile.x[row * kRankWords + t] = static_cast<int>(float_to_bits(u));
    }
    sync();
    for (int t = 0; t < n; ++t)
#pragma unroll
      for (int o = 0; o < Unit::kTiles; ++o)
#pragma unroll
        for (int r = 0; r < kMine; ++r) {
          const int b = tile.w[Unit::output(o, r) * kRankWords + t], u = tile.x[Unit::row(o, r) * kRankWords + t];
          acc[o][r] = fma_(bits_to_float(static_cast<unsigned>(u)), bits_to_float(static_cast<unsigned>(b)), acc[o][r]);
        }
    sync();
  }
}

// block_x: 64 outputs of one linear; block_y: a tile's rows.
template <class Unit, class AnyTile>
DEVICE void matmul(const LinearArgs& a, AnyTile& tile) {
  int x = block_x();
  const int l = linear_of(a, x, [](int) { return kOutputs; });
  const LinearOne& one = a.linears[l];
  const int j0 = x * kOutputs, row0 = block_y() * AnyTile::kRows, n_blocks = a.k / 32;
  typename Unit::Sums acc = {};
  for (int b0 = 0; b0 < n_blocks; b0 += kGroup) {
    fill_weights(one.w, j0, b0, n_blocks, tile);
    fill_rows(a, row0, b0, n_blocks, tile);
    sync();
    multiply<Unit>(tile, a.m - row0, acc);
    sync();
  }
  // f(j, row, y) of this thread's.
  const auto each = [&](const auto& f) {
#pragma unroll
    for (int o = 0; o < Unit::kTiles; ++o)
#pragma unroll
      for (int r = 0; r < kMine; ++r) {
        const int j = j0 + Unit::output(o, r), row = row0 + Unit::row(o, r);
        if (j < one.w.n && row < a.m) f(j, row, acc[o][r]);
      }
  };
  const int last = row0 + AnyTile::kRows < a.m ? row0 + AnyTile::kRows - 1 : a.m - 1;
  if (one.ranges && !same_parts(one.ranges, row0, last)) {  // each sum by itself, from the tile's place
    static_assert(sizeof(AnyTile) >= AnyTile::kRows * kOutputs * sizeof(float), "they fit");
    float* sums = reinterpret_cast<float*>(&tile);
    each([&](int j, int row, float y) { sums[(row - row0) * kOutputs + j - j0] = y; });
    sync();
    for (int i = thread_id(); i < AnyTile::kRows * kOutputs; i += kThreads) {
      const int j = j0 + i % kOutputs, row = row0 + i / kOutputs;
      if (j < one.w.n && row < a.m) finish(a, one, row, j, sums[i]);
    }
    return;
  }
  each([&](int j, int, float& y) { y += bias_of(one, j); });
  const PartRange range = one.ranges ? one.ranges[row0] : PartRange{0, 0};
  for (int p = range.first; p < range.first + range.count; ++p) {
    const Part& part = a.parts[p];
    add_update<Unit>(a, one, part, j0, row0, tile, acc);
    each([&](int j, int, float& y) { y = end_part(one, part, j, y); });
  }
  each([&](int j, int row, float y) { store(one, row, j, y); });
}

}  // namespace

#if !HAS_MMA_S8 || defined(EVERY_KERNEL)
KERNEL(matmul_dot4, LinearArgs, 128) {
  SHARED Tile<32> tile;
  matmul<Dot4>(a, tile);
}

KERNEL(matmul_halves_dot4, LinearArgs, 128) {
  SHARED HalvesTile tile;
  matmul<Dot4>(a, tile);
}
#endif

#if HAS_MMA_S8
KERNEL(matmul_mma, LinearArgs, 128) {
  SHARED Tile<64> tile;
  matmul<Mma<64>>(a, tile);
}

KERNEL(matmul_halves_mma, LinearArgs, 128) {
  SHARED HalvesTile tile;
  matmul<Mma<32>>(a, tile);
}
#endif

}  // namespace lora_edge::cuda
