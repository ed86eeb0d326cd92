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

template <int kind, int rows>
DEVICE void blocks_of(const LinearArgs& a, int l, int j, bool real, int row0) {
  const LinearOne& one = a.linears[l];
  const int lane = thread_id() % kGroup, half = lane % 2, n_blocks = a.k / 32;
  float acc[rows] = {};
  for (int b0 = 0; b0 < n_blocks; b0 += 4) {
    const int b = b0 + lane / 2;
    const bool there = real && b < n_blocks;
    const long long block = static_cast<long long>(j) * n_blocks + b;
    Words w = {};
    Scales scales = {};
    if (there) {
      w = load_block<kind>(one.w, block, half);
      scales = load_scales<kind>(one.w, block, half);
    }
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int row = row0 + i < a.m ? row0 + i : a.m - 1;
      int sum = 0;
      float s = 0.0f, p = 0.0f;
      if (there) {
        const long long at = static_cast<long long>(row) * n_blocks + b;
        const Words x = load_words(reinterpret_cast<const int*>(a.xq) + at * 8 + half * 4);
        for (int e = 0; e < 4; ++e) sum = dot4(w.w[e], x.w[e], sum);
        const float dx = load_cached(a.xd + at);
        s = scales.d * dx;
        if constexpr (kind == kQ8Halves) sum *= scales.scale;
        if constexpr (!is_plain(kind)) p = scales.min * dx * static_cast<float>(sum_of(x));
      }
      const float f = static_cast<float>(sum + shuffle_xor(sum, 1));
      float t;  // right in lanes of odd blocks
      if constexpr (is_plain(kind)) {
        t = fma_(s, f, shuffle_xor(s * f, 2));
      } else {
        p += shuffle_xor(p, 1);
        t = fma_(s, f, shuffle_xor(s * f + p, 2)) + p;
      }
      acc[i] += t + shuffle_xor(t, 4);
    }
  }
  if (!real || lane != kGroup - 1) return;
#pragma unroll
  for (int i = 0; i < rows; ++i)
    if (row0 + i < a.m) finish(a, one, row0 + i, j, acc[i]);
}

template <int rows>
DEVICE void floats_of(const LinearArgs& a, int l, int j, int row0) {
  const LinearOne& one = a.linears[l];
  const int lane = thread_id() % 32;
  float acc[rows] = {};
  for (int e = lane; e < a.k; e += 32) {
    const float w = load_float(one.w.q, one.w.kind, static_cast<long long>(j) * a.k + e);
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int row = row0 + i < a.m ? row0 + i : a.m - 1;
      acc[i] = fma_(w, a.x[static_cast<long long>(row) * a.k + e], acc[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    for (int apart = 16; apart > 0; apart /= 2) acc[i] += shuffle_xor(acc[i], apart);
    if (lane == 0 && row0 + i < a.m) finish(a, one, row0 + i, j, acc[i]);
  }
}

// block_x: kThreads / kGroup outputs of all linears together. A block's outputs may belong to several linears, but each
// linear's outputs start at a block of their own.
template <int rows>
DEVICE void matvec(const LinearArgs& a) {
  int x = block_x();
  const int l = linear_of(a, x, [](int kind) { return kind < kQ8 ? kThreads / 32 : kThreads / kGroup; });
  const int kind = a.linears[l].w.kind, n = a.linears[l].w.n, row0 = block_y() * rows;
  if (kind < kQ8) {
    const int j = x * (kThreads / 32) + thread_id() / 32;
    if (j < n) floats_of<rows>(a, l, j, row0);
    return;
  }
  const int j = x * (kThreads / kGroup) + thread_id() / kGroup;
  with_kind(kind, [&](auto k) { blocks_of<k.kind, rows>(a, l, j, j < n, row0); });
}

KERNEL(matvec_1, LinearArgs, 128) { matvec<1>(a); }
KERNEL(matvec_8, LinearArgs, 128) { matvec<kRows>(a); }

// u = scale · A·x: a warp for each rank of a row's parts; block_y: the row. block_x of grid_x, four warps each.
KERNEL(low_rank_in, LinearArgs, 128) {
  const int row = block_y(), lane = thread_id() % 32, warps = kThreads / 32;
  for (int index = block_x() * warps + thread_id() / 32;; index += grid_x() * warps) {
    int t = index;
    const Part* found = nullptr;
    float* u = nullptr;
    for (int l = 0; l < a.n_linears && !found; ++l) {
      if (!a.linears[l].ranges) continue;
      const PartRange range = a.linears[l].ranges[row];
      for (int p = range.first; p < range.first + range.count; ++p) {
        if (t < a.parts[p].r) {
          found = a.parts + p;
          u = a.linears[l].u;
          break;
        }
        t -= a.parts[p].r;
      }
    }
    if (!found) return;
    float acc = 0.0f;
    for (int e = lane; e < a.k; e += 32)
      acc = fma_(load_float(found->a, found->a_kind, static_cast<long long>(t) * a.k + e),
                 a.x[static_cast<long long>(row) * a.k + e], acc);
    for (int apart = 16; apart > 0; apart /= 2) acc += shuffle_xor(acc, apart);
    if (lane == 0) u[static_cast<long long>(row) * a.ldu + found->u0 + t] = acc * found->scale;
  }
}

}  // namespace lora_edge::cuda
