// What linears take beside x: x quantised, and u = scale · A·x of its rows' adapters. One launch makes both.
#include "device.h"
//
#include "args.h"
#include "load.h"
//
#include "linear.h"

namespace lora_edge::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kStep = kThreads * 8;  // elements that a block takes at a time

// A warp for each block of 32: d = max|x| / 127, q = round(x / d).
DEVICE void quantize(const QuantizeArgs& a) {
  const int block = block_x() * kWarps + thread_id() / 32, lane = thread_id() % 32;
  if (block >= a.n_blocks) return;
  const long long at = static_cast<long long>(block) * 32 + lane;
  const float x = a.x[at];
  float most = x < 0.0f ? -x : x;
  most = most == most ? most : 0.0f;
  for (int apart = 16; apart > 0; apart /= 2) {
    const float other = shuffle_xor(most, apart);
    most = other > most ? other : most;
  }
  const float d = most / 127.0f;
  float v = round_(x * (d != 0.0f ? 1.0f / d : 0.0f));
  v = v > 127.0f ? 127.0f : v;
  v = v > -127.0f ? v : -127.0f;
  a.q[at] = static_cast<signed char>(static_cast<int>(v));
  if (lane == 0) a.d[block] = d;
}

// The part that makes column c of a row's u, or nullptr.
DEVICE const Part* part_of(const LinearArgs& a, PartRange range, int c) {
  for (int p = range.first; p < range.first + range.count; ++p)
    if (c >= a.parts[p].u0 && c < a.parts[p].u0 + a.parts[p].r) return a.parts + p;
  return nullptr;
}

// Sums of each warp, of a row's columns.
using Sums = float[kWarps][kManyRows][kManyRanks];

// Columns c0 … of the rows row0 …, all with the parts of `range`: thread t of all takes 8 elements from 8 t on, then
// those kStep further, one fused multiply-add each; lanes 16, 8, 4, 2, 1 apart are added.
template <int rows, int ranks>
DEVICE void add_up(const LinearArgs& a, PartRange range, int row0, int c0, Sums& sums, int first) {
  if (range.count == 0) return;
  const void* from[ranks];
  int kind[ranks];
  long long begin[ranks];
#pragma unroll
  for (int c = 0; c < ranks; ++c) {
    const Part* found = part_of(a, range, c0 + c);
    const Part* part = found ? found : a.parts + range.first;  // what nobody asks for is made of anything
    from[c] = part->a;
    kind[c] = part->a_kind;
    begin[c] = found ? static_cast<long long>(c0 + c - part->u0) * a.k : 0;
  }
  const auto x_at = [&](int i) { return a.x + static_cast<long long>(row0 + i < a.m ? row0 + i : a.m - 1) * a.k; };
  float acc[rows][ranks] = {};
  if (a.k % 8 == 0) {
    constexpr int kAtOnce = rows * ranks == 1 ? 4 : 1;  // whose loads are under way together
    for (int e0 = thread_id() * 8; e0 < a.k; e0 += kAtOnce * kStep) {
      Eight w[kAtOnce][ranks], first_x[kAtOnce];
#pragma unroll
      for (int g = 0; g < kAtOnce; ++g) {
        const int e = e0 + g * kStep < a.k ? e0 + g * kStep : e0;
#pragma unroll
        for (int c = 0; c < ranks; ++c) w[g][c] = load_eight(from[c], kind[c], begin[c] + e);
        first_x[g] = load_eight(x_at(0), kF32, e);
      }
#pragma unroll
      for (int g = 0; g < kAtOnce; ++g) {
        if (g > 0 && e0 + g * kStep >= a.k) continue;
#pragma unroll
        for (int i = 0; i < rows; ++i) {
          const Eight x = i == 0 ? first_x[g] : load_eight(x_at(i), kF32, e0 + g * kStep);
#pragma unroll
          for (int c = 0; c < ranks; ++c)
#pragma unroll
            for (int v = 0; v < 8; ++v) acc[i][c] = fma_(w[g][c].v[v], x.v[v], acc[i][c]);
        }
      }
    }
  } else {
    for (int e0 = thread_id() * 8; e0 < a.k; e0 += kStep)
      for (int e = e0; e < e0 + 8 && e < a.k; ++e)
#pragma unroll
        for (int c = 0; c < ranks; ++c) {
          const float w = load_float(from[c], kind[c], begin[c] + e);
#pragma unroll
          for (int i = 0; i < rows; ++i) acc[i][c] = fma_(w, load_cached(x_at(i) + e), acc[i][c]);
        }
  }
#pragma unroll
  for (int i = 0; i < rows; ++i)
#pragma unroll
    for (int c = 0; c < ranks; ++c) {
      for (int apart = 16; apart > 0; apart /= 2) acc[i][c] += shuffle_xor(acc[i][c], apart);
      if (thread_id() % 32 == 0) sums[thread_id() / 32][first + i][c] = acc[i][c];
    }
}

// What linear l has of these: for an index, or loads within branches, the compiler copies all arguments to memory.
static_assert(kMostLinears == 3);
template <class T>
DEVICE T* of_linear(int l, T* first, T* second, T* third) {
  return l == 0 ? first : l == 1 ? second : third;
}

// u of `ranks` columns of a linear, of `rows` rows; index: of the block among those of all linears and rows.
template <int rows, int ranks>
DEVICE void low_rank(const LinearArgs& a, int index, Sums& sums) {
  const int columns = (a.ldu + ranks - 1) / ranks, c0 = index % columns * ranks, l = index / columns % a.n_linears;
  const int row0 = index / columns / a.n_linears * rows;
  const PartRange* ranges = of_linear(l, a.linears[0].ranges, a.linears[1].ranges, a.linears[2].ranges);
  float* u = of_linear(l, a.linears[0].u, a.linears[1].u, a.linears[2].u);
  if (!ranges) return;
  const int n = row0 + rows < a.m ? rows : a.m - row0;
  if (same_parts(ranges, row0, row0 + n - 1)) {
    add_up<rows, ranks>(a, ranges[row0], row0, c0, sums, 0);
  } else {
    for (int i = 0; i < n; ++i) add_up<1, ranks>(a, ranges[row0 + i], row0 + i, c0, sums, i);
  }
  sync();
  const int i = thread_id() / ranks, c = thread_id() % ranks;
  if (i >= n) return;
  const Part* part = part_of(a, ranges[row0 + i], c0 + c);
  if (!part) return;
  float sum = 0.0f;
  for (int w = 0; w < kWarps; ++w) sum += sums[w][i][c];
  u[static_cast<long long>(row0 + i) * a.ldu + c0 + c] = sum * part->scale;
}

}  // namespace

// block_x: those that quantise, then of each tile of rows those of each linear.
KERNEL(inputs, InputArgs, 128) {
  SHARED Sums sums;
  if (block_x() < a.quantize_blocks) return quantize(a.quantize);
  low_rank<1, 1>(a.linear, block_x() - a.quantize_blocks, sums);
}

// Many rows: each number of A serves kManyRows, and each of x kManyRanks.
KERNEL(inputs_many, InputArgs, 128) {
  SHARED Sums sums;
  if (block_x() < a.quantize_blocks) return quantize(a.quantize);
  low_rank<kManyRows, kManyRanks>(a.linear, block_x() - a.quantize_blocks, sums);
}

}  // namespace lora_edge::cuda
