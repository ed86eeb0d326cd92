// The whole contract of a kernel table. `ref` (ref/ref.cpp) is the specification: every other table gives the same
// bits.
//
// That is possible because each sum has one order, whatever the width of the registers, the number of rows in the call
// or the range of outputs asked for:
//  - dot16: a dot product of floats runs in 16 lanes, element i in lane i % 16, one fused multiply-add each, then
//    lanes l and l + 8 are added, then l and l + 4, l + 2, l + 1. Missing elements count as zeros.
//  - Q8_0: blocks in order; acc = fma(dw · dx, float(exact integer dot product), acc), from acc = 0.
//  - low-rank: y = fma(u[t], Bt[t][j], y) for t in order. So are attention's scores (Bt = K, transposed) and values (Bt
//  = V).
//  - exp is the polynomial in ref/ref.cpp, evaluated with the same fused steps.
// Shapes: m rows (tokens), n outputs, k depth, r rank. Kernels do no allocation, threading or detection.
#pragma once

#include "formats/blocks.h"

namespace lora_edge {

// y[i·ldy + j] = Σ_k W[j][k] · x[i][k] for i in [0, m), j in [n0, n1). W is [n, k] row-major, rows w_stride bytes
// apart.
struct MatmulArgs {
  const void* w;
  size_t w_stride;
  int k;
  int m;
  const float* x;  // f32 / f16 / bf16 weights: [m, ldx]
  size_t ldx;
  const int8_t* xq;   // q8_0 weights: [m, k], in [-127, 127]
  const float* xd;    // q8_0 weights: [m, k / 32]
  const int32_t* xs;  // q8_0 weights: [m, k / 32], the sum of each block of xq
  float* y;
  size_t ldy;
  int n0, n1;
  void* scratch;  // kScratchBytes of this thread's, 64-byte aligned
};

// y[i·ldy + j] += Σ_t u[i·ldu + t] · Bt[t·n + j] for i in [0, m), j in [n0, n1).
struct LowRankArgs {
  const void* bt;  // [r, n]
  int n, r;
  int m;
  const float* u;
  size_t ldu;
  float* y;
  size_t ldy;
  int n0, n1;
};

// Keys and values are cached in pages of this many positions.
constexpr int kPagePositions = 64;

constexpr size_t kScratchBytes = 512 * 1024;

struct Table {
  const char* name;
  // Indexed by DType.
  void (*matmul[kDTypes])(const MatmulArgs&);
  void (*dequantize[kDTypes])(const void* w, float* out, int k);
  void (*lowrank[kDTypes])(const LowRankArgs&);  // f32, f16, bf16
  // One page of m queries' attention: scores p[n] become exp(scale · p - max), max being the largest so far, and what
  // `state` holds of the pages before is scaled to it. state: the weighted sum of values [d], max, and the sum of the
  // exponentials, fma(sum, keep, those of this page in dot16's lanes and order). It begins as zeros, -inf and 0.
  // Scores lie kPagePositions apart, states `ld`. A running maximum: Milakov & Gimelshein 2018.
  void (*softmax_page)(float* p, int n, int m, float scale, float* state, size_t ld, int d);
  // state becomes that of its pages and those of `later`: fma(later, exp(max of later - max), state · exp(its max -
  // max)).
  void (*softmax_merge)(float* state, const float* later, int d);
  // A page of keys as Q8_0 caches keep them, bytes [d][positions] and f16 scales [d / 32][positions], to out
  // [d][positions].
  void (*dequantize_keys)(const int8_t* q, const uint16_t* scales, int d, float* out);
  // in [n, r], rows in_stride bytes apart, to f32 [r, n]. f32, f16, bf16.
  void (*transpose[kDTypes])(const void* in, size_t in_stride, int n, int r, float* out);
  // x[k] -> q[k], d[k / 32] with d = max|x| / 127 and q = round-half-even(x / d), as ggml's Q8_0; d stays f32. s[k /
  // 32] is the sum of each block of q: products of unsigned by signed bytes, w + 128 by x, are too large by 128 · s.
  void (*quantize_q8)(const float* x, int8_t* q, float* d, int32_t* s, int k);
  void (*f32_to_f16)(const float* x, uint16_t* out, int n);
  void (*add)(float* y, const float* x, int n);  // y += x
  // out = x / sqrt(mean(x²) + eps) · w; out may be x.
  void (*rms_norm)(const float* x, const float* w, float eps, int n, float* out);
  // out = gate / (1 + exp(-gate)) · up; out may be either.
  void (*swiglu)(const float* gate, const float* up, float* out, int n);
  // Rotates pairs of x[d] in place by angles given as cos, sin [n_rot / 2]: pairs (2i, 2i + 1) if interleaved, else
  // (i, i + n_rot / 2). Elements past n_rot stay.
  void (*rope)(float* x, const float* cos, const float* sin, int n_rot, bool interleaved);
  // Σ exp(x - max), in dot16's lanes and order.
  float (*sum_exp)(const float* x, float max, int n);
  // No part of a model: runs the instructions that multiply bytes, on registers alone, in sums that don't wait for one
  // another. The multiply-adds done, a multiple of `rounds`.
  int64_t (*int8_peak)(int rounds);
};

// The table chosen for this process: the best that this CPU runs, or the one that LORA_EDGE_ISA names (InputError,
// listing those that run, when it can't be had).
const Table& active_table();

// All tables of this build, in climbing order, with whether this CPU runs them.
struct TableInfo {
  const char* name;
  bool runs_here;
  const Table& (*get)();
};
const TableInfo* all_tables(int* count);

namespace ref {
void install(Table&);
}
#if defined(__x86_64__)
namespace avx2 {
void install(Table&);
}
namespace avx_vnni {
void install(Table&);
}
namespace avx512_vnni {
void install(Table&);
}
#endif
#if defined(__aarch64__)
namespace neon {
void install(Table&);
}
namespace neon_dotprod {
void install(Table&);
}
namespace neon_i8mm {
void install(Table&);
}
#endif

}  // namespace lora_edge
