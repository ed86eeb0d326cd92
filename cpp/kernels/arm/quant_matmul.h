// Matmul of weights in blocks of 2 to 6 bits: 4 rows are unpacked into scratch, some blocks at a time, and all tokens
// pass through them while they lie in L1. Included, like neon_common.h, as each file's own copy.
//
// A policy P makes a block's integers:
//   kTokens                   of a tile
//   arrange<F>(block)         brings the unpacked weights into P's order
//   kFew                      up to this many tokens weights stay as they are unpacked
//   dots<F>(block, x, half)   Σ w·x of 4 rows and one token: half[0], and half[1] of the second halves if F::kHalves
//   few_dots<F>               the same of weights that were not arranged
#pragma once

#include "kernels/arm/quant_formats.h"

namespace lora_edge::neon {
namespace {

constexpr int kUnpackedBlocks = 64;  // of 4 rows: 11 to 16 KiB
constexpr int kUnpackedRows = 4;

// acc plus a block's products, and minima: kernels.h has the order. half: Σ w·x with the format's offset still in w.
template <class F>
inline float32x4_t add_block(float32x4_t acc, const Unpacked<F>& block, const int32x4_t* half, float dx,
                             const int16_t* xs) {
  const int sum = xs[0] + xs[1];
  int32x4_t dot = half[0];
  if constexpr (F::kHalves) {
    const auto shifted = [&](int h) {
      return F::kOffset > 0 ? vsubq_s32(half[h], vdupq_n_s32(F::kOffset * xs[h])) : half[h];
    };
    dot = vmulq_s32(shifted(0), vld1q_s32(block.scale[0]));
    dot = vmlaq_s32(dot, shifted(1), vld1q_s32(block.scale[1]));
  } else if constexpr (F::kOffset > 0) {
    dot = vsubq_s32(dot, vdupq_n_s32(F::kOffset * sum));
  }
  acc = vfmaq_f32(acc, vmulq_n_f32(vld1q_f32(block.d), dx), vcvtq_f32_s32(dot));
  if constexpr (F::kMins == 1) acc = vfmaq_n_f32(acc, vld1q_f32(block.min[0]), dx * static_cast<float>(sum));
  if constexpr (F::kMins == 2)
    for (int h = 0; h < 2; ++h) acc = vfmaq_n_f32(acc, vld1q_f32(block.min[h]), dx * static_cast<float>(xs[h]));
  return acc;
}

// 4 rows times C tokens from token i on: blocks [b, b + blocks), y made where b is 0, else added to.
template <class P, class F, int C, bool arranged>
__attribute__((flatten)) void unpacked_tile(const MatmulArgs& a, const Unpacked<F>* block, int i, int j, int b,
                                            int blocks) {
  const int live = a.n1 - j;
  const int8_t* x[C];
  const float* d[C];
  const int16_t* s[C];
  float32x4_t acc[C];
  each<C>([&](auto c) {
    const size_t at = static_cast<size_t>(i + c) * static_cast<size_t>(a.k / kBlock) + static_cast<size_t>(b);
    x[c] = a.xq + at * kBlock;
    d[c] = a.xd + at;
    s[c] = a.xs + 2 * at;
    acc[c] = b == 0 ? vdupq_n_f32(0.0f) : load_some<DType::f32>(a.y + static_cast<size_t>(i + c) * a.ldy + j, live);
  });
  for (; blocks > 0; --blocks, ++block)
    each<C>([&](auto c) {
      int32x4_t half[2];
      const int8x16_t xv[2] = {vld1q_s8(x[c]), vld1q_s8(x[c] + 16)};
      if constexpr (arranged)
        P::template dots<F>(*block, xv, half);
      else
        P::template few_dots<F>(*block, xv, half);
      acc[c] = add_block<F>(acc[c], *block, half, *d[c], s[c]);
      x[c] += kBlock, d[c] += 1, s[c] += 2;
    });
  each<C>([&](auto c) { store_some(a.y + static_cast<size_t>(i + c) * a.ldy + j, acc[c], live); });
}

template <class P, class F, int C, bool arranged>
void unpacked_tiles(const MatmulArgs& a, const Unpacked<F>* block, int i, int j, int b, int blocks) {
  for (; i + C <= a.m; i += C) unpacked_tile<P, F, C, arranged>(a, block, i, j, b, blocks);
  if constexpr (C > 1)
    if (i < a.m) unpacked_tiles<P, F, C - 1, arranged>(a, block, i, j, b, blocks);
}

// Rows follow each other in memory, so what comes after the rows at hand is prefetched in that order.
template <class F>
void prefetch_rows(const uint8_t* next, size_t bytes) {
  for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch(next + line);
}

template <class P, class F>
void unpacked_matmul(const MatmulArgs& a) {
  static_assert(sizeof(Unpacked<F>[kUnpackedBlocks]) <= kScratchBytes, "they fit");
  auto* const unpacked = static_cast<Unpacked<F>*>(a.scratch);
  const int blocks = a.k / kBlock;
  for (int j = a.n0; j < a.n1; j += kUnpackedRows) {
    const uint8_t* row[kUnpackedRows];
    for (int r = 0; r < kUnpackedRows; ++r)
      row[r] = static_cast<const uint8_t*>(a.w) + static_cast<size_t>(j + r < a.n1 ? j + r : a.n1 - 1) * a.w_stride;
    for (int b = 0; b < blocks; b += kUnpackedBlocks) {
      const int n = blocks - b < kUnpackedBlocks ? blocks - b : kUnpackedBlocks;
      for (int e = 0; e < n; e += F::kBlocks) {
        const size_t at = static_cast<size_t>((b + e) / F::kBlocks) * F::kBytes;
        prefetch_rows<F>(row[0] + kUnpackedRows * a.w_stride + kUnpackedRows * at, kUnpackedRows * F::kBytes);
        F::unpack(row, at, unpacked + e);
      }
      if (a.m <= P::kFew) {
        unpacked_tiles<P, F, P::kTokens, false>(a, unpacked, 0, j, b, n);
      } else {
        for (int e = 0; e < n; ++e) P::arrange(unpacked[e].w);
        unpacked_tiles<P, F, P::kTokens, true>(a, unpacked, 0, j, b, n);
      }
    }
  }
}

// All types' matmul but Q8_0's.
template <class P>
void install_unpacked(Table& t) {
  each_format([&](DType type, auto f) { t.matmul[static_cast<int>(type)] = unpacked_matmul<P, decltype(f)>; });
}

}  // namespace
}  // namespace lora_edge::neon
