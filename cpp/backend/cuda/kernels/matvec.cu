// Linears for few rows: every weight is read once for up to kRows of them.
//
// The order of a sum is the same for any number of rows, here and in matmul.cu. Blocks: of four blocks of 32 in a row,
// t = fma(s1, f1, s0 · f0) + fma(s3, f3, s2 · f2), where f is the exact integer as a float and s = dw · dx, and groups
// in order; missing blocks count as zeros. After each product of blocks with minima, p = (m0 · dx) · g0 + (m1 · dx) ·
// g1 is added to it, where g are the sums of x's halves. Floats: lane l of 32 takes the elements l, l + 32 ..., one
// fused multiply-add each, then lanes 16, 8, 4, 2, 1 apart are added.
#include "device.h"
//
#include "args.h"
#include "functions.h"
#include "load.h"
//
#include "linear.h"

namespace lora_edge::cuda {

constexpr int kRows = 8;  // of x in a block of threads: block_y
constexpr int kThreads = 128;
constexpr int kGroup = 8;  // lanes of an output: each has half a block of four

// Threads work in order, so loads that shall be under way together come first, without a branch between them. An output
// has 128 bytes in a group of four blocks, and a GPU wants some 20 KB under way for each of its multiprocessors: that
// is four groups where registers for x are few.
template <int rows>
constexpr int kAtOnce = rows == 1 ? 4 : 2;

template <int kind, int rows>
DEVICE void blocks_of(const LinearArgs& a, int l, int j, bool real, int row0, float (&acc)[rows]) {
  const LinearOne& one = a.linears[l];
  const int lane = thread_id() % kGroup, half = lane % 2, n_blocks = a.k / 32;
  const long long first = static_cast<long long>(real ? j : 0) * n_blocks;
  for (int b0 = 0; b0 < n_blocks; b0 += 4 * kAtOnce<rows>) {
    const auto block = [&](int g) { return b0 + 4 * g + lane / 2 < n_blocks ? b0 + 4 * g + lane / 2 : 0; };
    Words w[kAtOnce<rows>], x[kAtOnce<rows>][rows];
    Scales scales[kAtOnce<rows>];
    float dx[kAtOnce<rows>][rows];
    const auto load_rows = [&](int g) {
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        const long long at = static_cast<long long>(row0 + i < a.m ? row0 + i : a.m - 1) * n_blocks + block(g);
        x[g][i] = load_words(reinterpret_cast<const int*>(a.xq) + at * 8 + half * 4);
        dx[g][i] = load_cached(a.xd + at);
      }
    };
#pragma unroll
    for (int g = 0; g < kAtOnce<rows>; ++g) {
      w[g] = load_block<kind>(one.w, first + block(g), half);
      scales[g] = load_scales<kind>(one.w, first + block(g), half);
      if (rows == 1) load_rows(g);
    }
#pragma unroll
    for (int g = 0; g < kAtOnce<rows>; ++g) {
      if (rows > 1) load_rows(g);
      const bool there = b0 + 4 * g + lane / 2 < n_blocks;
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        int sum = 0;
        for (int e = 0; e < 4; ++e) sum = dot4(w[g].w[e], x[g][i].w[e], sum);
        if constexpr (kind == kQ8Halves) sum *= scales[g].scale;
        const float s = there ? scales[g].d * dx[g][i] : 0.0f;
        const float f = static_cast<float>(sum + shuffle_xor(sum, 1));
        float t;  // right in lanes of odd blocks
        if constexpr (is_plain(kind)) {
          t = fma_(s, f, shuffle_xor(s * f, 2));
        } else {
          float p = there ? scales[g].min * dx[g][i] * static_cast<float>(sum_of(x[g][i])) : 0.0f;
          p += shuffle_xor(p, 1);
          t = fma_(s, f, shuffle_xor(s * f + p, 2)) + p;
        }
        acc[i] += t + shuffle_xor(t, 4);
      }
    }
  }
}

template <int rows>
DEVICE void floats_of(const LinearArgs& a, int l, int j, int row0, float (&acc)[rows]) {
  const LinearOne& one = a.linears[l];
  const int lane = thread_id() % 32;
  for (int e = lane; e < a.k; e += 32) {
    const float w = load_float(one.w.q, one.w.kind, static_cast<long long>(j) * a.k + e);
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int row = row0 + i < a.m ? row0 + i : a.m - 1;
      acc[i] = fma_(w, a.x[static_cast<long long>(row) * a.k + e], acc[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < rows; ++i)
    for (int apart = 16; apart > 0; apart /= 2) acc[i] += shuffle_xor(acc[i], apart);
}

// block_x: kThreads / kGroup outputs of all linears together. A block's outputs may belong to several linears, but each
// linear's outputs start at a block of their own.
template <int rows>
DEVICE void matvec(const LinearArgs& a) {
  int x = block_x();
  const int l = linear_of(a, x, [](int kind) { return kind < kQ8 ? kThreads / 32 : kThreads / kGroup; });
  const int kind = a.linears[l].w.kind, row0 = block_y() * rows;
  const int lanes = kind < kQ8 ? 32 : kGroup;  // of an output; the last has its sums
  const int j = x * (kThreads / lanes) + thread_id() / lanes;
  const bool real = j < a.linears[l].w.n;
  float acc[rows] = {};
  if (kind >= kQ8) {
    with_kind(kind, [&](auto k) { blocks_of<k.kind, rows>(a, l, j, real, row0, acc); });
  } else if (real) {
    floats_of<rows>(a, l, j, row0, acc);
  }
  if (!real || thread_id() % lanes != lanes - 1) return;
#pragma unroll
  for (int i = 0; i < rows; ++i)
    if (row0 + i < a.m) finish(a, a.linears[l], row0 + i, j, acc[i]);
}

KERNEL(matvec_1, LinearArgs, 128) { matvec<1>(a); }
KERNEL(matvec_8, LinearArgs, 128) { matvec<kRows>(a); }

}  // namespace lora_edge::cuda
