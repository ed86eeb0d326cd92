// Q8_0 times few tokens, or times many where a CPU has no dot products: rows of W as they lie in the file, lanes along
// the depth, folded to one sum per row and block. Included, like neon_common.h, as each file's own copy.
//
// A policy P makes the sums:
//   kTokens         most tokens in a tile of 4 rows, such that its registers suffice
//   kRunning        the sums run on from block to block, modulo 2^32, and a block's own is the difference: one
//                   subtraction per 4 rows in place of 4 zeros
//   kSteps, step<i>(w, x, part, sum)  the i-th instruction that takes a row's and a token's block, w and x of 32 bytes
//                   each, to the sum's four lanes; `part` is what lies between. Without kRunning it replaces the sum.
#pragma once

#include "kernels/arm/neon_common.h"

namespace lora_edge::neon {
namespace {

// Pointers to the rows [j, j + kRows) of W; past the last output, that one again.
template <int kRows>
void row_pointers(const MatmulArgs& a, int j, const uint8_t** row) {
  row[0] = static_cast<const uint8_t*>(a.w) + static_cast<size_t>(j) * a.w_stride;
  for (int r = 1; r < kRows; ++r) row[r] = row[r - 1] + (j + r < a.n1 ? a.w_stride : 0);
}

// The scale of a block, into a lane; into lane 0 with zeros behind it, which waits for no older lanes. p moves on past
// the block, whose weights are then at p - 32.
template <int lane>
inline void take_scale(const uint8_t*& p, uint16x4_t& halves) {
  constexpr size_t kStep = sizeof(BlockQ8_0);
  const uint8_t* at = p;
  uint16x4_t four = halves;
  if constexpr (lane == 0)
    asm("ldr %h0, [%1], #%2" : "=w"(four), "+r"(at) : "i"(kStep), "m"(*reinterpret_cast<const uint8_t(*)[kStep]>(p)));
  else
    asm("ld1 {%0.h}[%3], [%1], %2"
        : "+w"(four), "+r"(at)
        : "r"(kStep), "i"(lane), "m"(*reinterpret_cast<const uint8_t(*)[kStep]>(p)));
  halves = four, p = at;
}

// One or two of a token's scales; p moves on past them.
template <int N>
inline float32x2_t take_scales(const float*& p) {
  const float* at = p;
  float32x2_t v;
  if constexpr (N == 1)
    asm("ldr %s0, [%1], #4" : "=w"(v), "+r"(at) : "m"(*reinterpret_cast<const float(*)[1]>(p)));
  else
    asm("ldr %d0, [%1], #8" : "=w"(v), "+r"(at) : "m"(*reinterpret_cast<const float(*)[2]>(p)));
  p = at;
  return v;
}

// 4 Q rows × C tokens, y[c][q] their sums: per block the policy's steps for each row and token, and for 4 rows and a
// token three pairwise additions, product of the scales, conversion and fused multiply-add. Four sums or so are made
// side by side, for CPUs that work in order.
template <class P, int Q, int C>
__attribute__((flatten)) void rows_tile(const uint8_t* const* w, const int8_t* xq, size_t ldq, const float* xd,
                                        size_t ldd, int blocks, float32x4_t (*y)[2]) {
  constexpr int kAtOnce = C == 1 ? 4 : C == 2 ? 2 : 1;  // rows
  constexpr bool kTwoScales = C < P::kTokens;           // of a token at once, where registers suffice
  const uint8_t *row[4 * Q], *x[C];
  const float* d[C];
  float32x2_t dx[C];
  int32x4_t sum[C][4 * Q], even[C][Q], odd[C][Q];
  float32x4_t acc[C][Q];
  each<4 * Q>([&](auto r) { row[r] = w[r]; });
  each<C>([&](auto c) {
    x[c] = reinterpret_cast<const uint8_t*>(xq + c * ldq);
    d[c] = xd + c * ldd;
    each<4 * Q>([&](auto r) { sum[c][r] = vdupq_n_s32(0); });
    each<Q>([&](auto q) {
      even[c][q] = vdupq_n_s32(0);
      acc[c][q] = vdupq_n_f32(0.0f);
    });
  });
  const auto add_block = [&](auto second, const int32x4_t(*before)[Q], int32x4_t(*after)[Q]) {
    int8x16_t xv[C][2];
    each<C>([&](auto c) {
      if constexpr (second)
        load_pair<-32>(x[c], xv[c][0], xv[c][1]);
      else
        take_pair<64>(x[c], xv[c][0], xv[c][1]);
      if constexpr (!kTwoScales) dx[c] = take_scales<1>(d[c]);
    });
    each<Q>([&](auto q) {
      int32x4_t two[C][2];
      uint16x4_t halves;
      each<4 / kAtOnce>([&](auto group) {
        constexpr int first = 4 * q + group * kAtOnce;
        int8x16_t wv[kAtOnce][2];
        typename P::Part part[kAtOnce][C];
        each<kAtOnce>([&](auto r) { take_scale<first % 4 + r>(row[first + r], halves); });
        each<kAtOnce>([&](auto r) { load_pair<-32>(row[first + r], wv[r][0], wv[r][1]); });
        each<P::kSteps>([&](auto i) {
          each<kAtOnce>([&](auto r) {
            each<C>([&](auto c) { P::template step<i>(wv[r], xv[c], part[r][c], sum[c][first + r]); });
          });
        });
        each<kAtOnce>([&](auto r) {
          if constexpr ((first + r) % 2 == 1)
            each<C>(
                [&](auto c) { two[c][(first + r) % 4 / 2] = vpaddq_s32(sum[c][first + r - 1], sum[c][first + r]); });
        });
      });
      const float32x4_t dw = vcvt_f32_f16(vreinterpret_f16_u16(halves));
      int32x4_t dot[C];
      each<C>([&](auto c) {
        dot[c] = vpaddq_s32(two[c][0], two[c][1]);
        if constexpr (P::kRunning) {
          after[c][q] = dot[c];
          dot[c] = vsubq_s32(dot[c], before[c][q]);
        }
      });
      each<C>([&](auto c) {
        acc[c][q] = vfmaq_f32(acc[c][q], vmulq_lane_f32(dw, dx[c], kTwoScales && second), vcvtq_f32_s32(dot[c]));
      });
    });
  };
  for (; blocks >= 2; blocks -= 2) {  // two totals, as one would be copied
    if constexpr (kTwoScales) each<C>([&](auto c) { dx[c] = take_scales<2>(d[c]); });
    add_block(std::false_type(), even, odd);
    add_block(std::true_type(), odd, even);
  }
  if (blocks > 0) {
    if constexpr (kTwoScales) each<C>([&](auto c) { dx[c] = take_scales<1>(d[c]); });
    add_block(std::false_type(), even, odd);
  }
  each<C>([&](auto c) { each<Q>([&](auto q) { y[c][q] = acc[c][q]; }); });
}

template <class P, int Q>
void rows_matmul(const MatmulArgs& a, int first, int last, int j) {
  constexpr decltype(&rows_tile<P, Q, 1>) kTiles[] = {rows_tile<P, Q, 1>, rows_tile<P, 1, 2>, rows_tile<P, 1, 3>,
                                                      rows_tile<P, 1, P::kTokens>};
  const uint8_t* row[4 * Q];
  row_pointers<4 * Q>(a, j, row);
  const size_t ldq = static_cast<size_t>(a.k), ldd = ldq / kBlock;
  for (int i = first; i < last; i += P::kTokens) {
    const size_t t = static_cast<size_t>(i);
    const int tokens = last - i < P::kTokens ? last - i : P::kTokens;
    float32x4_t y[P::kTokens][2];
    kTiles[tokens - 1](row, a.xq + t * ldq, ldq, a.xd + t * ldd, ldd, a.k / kBlock, y);
    for (int c = 0; c < tokens; ++c)
      for (int q = 0; q < Q; ++q)
        if (j + 4 * q < a.n1)
          store_some(a.y + (t + static_cast<size_t>(c)) * a.ldy + j + 4 * q, y[c][q], a.n1 - j - 4 * q);
  }
}

// One token takes 8 rows at once, more take 4 rows per panel of tokens, which stays in the cache.
template <class P>
void rows_matmul(const MatmulArgs& a) {
  if (a.m == 1) {
    for (int j = a.n0; j < a.n1; j += 8) rows_matmul<P, 2>(a, 0, 1, j);
    return;
  }
  const int panel = panel_rows(static_cast<size_t>(a.k), P::kTokens);
  for (int first = 0; first < a.m; first += panel)
    for (int j = a.n0; j < a.n1; j += 4) rows_matmul<P, 1>(a, first, first + panel < a.m ? first + panel : a.m, j);
}

}  // namespace
}  // namespace lora_edge::neon
