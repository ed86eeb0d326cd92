// The whole contract of a kernel table. `ref` (ref/ref.cpp) is the specification: every other table gives the same
// bits.
//
// That is possible because each sum has one order, whatever the width of the registers, the number of rows in the call
// or the range of outputs asked for:
//  - dot16: a dot product of floats runs in 16 lanes, element i in lane i % 16, one fused multiply-add each, then
//    lanes l and l + 8 are added, then l and l + 4, l + 2, l + 1. Missing elements count as zeros.
//  - Quantised weights: blocks of 32 in order, from acc = 0; acc = fma(dw · dx, float(exact integer), acc), where the
//    integer is Σ q·xq, q being what the block's scale multiplies. Types whose scales serve 16 elements (Q2_K, Q3_K,
//    Q6_K) take dw = d and the integer s0 · Σ q·xq over the first half + s1 · Σ q·xq over the second; for Q4_K and Q5_K
//    dw = d · scale, which is exact. Types with minima then add theirs: acc = fma(min, dx · float(Σ xq), acc), where
//    min = m of the block or -(dmin · min); for Q2_K first that of the first half, then the second's.
//  - low-rank: y = fma(u[t], Bt[t][j], y) for t in order. So are attention's scores (Bt = K transposed), values (V)
//    and the gradient dY·W of a linear's input (W dequantised), but of weights of one scale per block of integers.
//  - Their gradient: spans of kGradientSpan rows of W in order, dx = fma(dy's d · (the scales' d · 2^15), float(exact
//    integer), dx). Of dY each row of a span and of W's scales each block's in a span's rows are numbers of 16 bits
//    times a float d (quantize_q16); they multiply to p = (q · scale + 2^14) >> 15, and the integer is Σ p·w, which
//    stays below 2^28.
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
  const int8_t* xq;   // weights in blocks: [m, k], in [-127, 127]
  const float* xd;    // blocks: [m, k / 32]
  const int16_t* xs;  // blocks: [m, k / 16], the sum of each half block of xq
  float* y;
  size_t ldy;
  int n0, n1;
  void* scratch;               // kScratchBytes of this thread's, 64-byte aligned
  const void* next = nullptr;  // what this thread is likely to read after row n1 - 1; it needn't be there
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
  const void* next = nullptr;  // what is likely read after these outputs of Bt, as many bytes; it needn't be there
};

// Keys and values are cached in pages of this many positions.
constexpr int kPagePositions = 64;

// Rows of W of a span. Numbers of 16 bits end at 127 · 256, so that they are two signed bytes when rounded to the
// upper one; a span of floats below 2^-100 counts as zeros.
constexpr int kGradientSpan = 64;
constexpr float kMostQ16 = 127 * 256, kLeastQ16 = 0x1p-100f;

// dx[i·lddx + c] += Σ_j dY[i][j] · W[j][c] for i in [0, m), c in [0, k). W is [n, k], n <= kGradientSpan, rows w_stride
// bytes apart. dY is q times d.
struct GradientArgs {
  const void* w;
  size_t w_stride;
  int n, k;
  int m;
  const int16_t* q;  // [m, kGradientSpan], zeros from n on
  const float* d;    // [m]
  float* dx;
  size_t lddx;
};

constexpr size_t kScratchBytes = 512 * 1024;

struct Table {
  const char* name;
  // Indexed by DType.
  void (*matmul[kDTypes])(const MatmulArgs&);
  void (*dequantize[kDTypes])(const void* w, float* out, int k);
  void (*lowrank[kDTypes])(const LowRankArgs&);  // f32, f16, bf16
  // Types of one scale per block of integers (Q8_0, Q4_0, Q5_0, IQ4_NL); nullptr for the others.
  void (*gradient[kDTypes])(const GradientArgs&);
  // x[n], n <= kGradientSpan -> q[kGradientSpan], zeros from n on: with d = max|x| / kMostQ16, which is returned,
  // q = round-half-even(x · (1 / d)). All zeros with d = 0 if max|x| < kLeastQ16, and with d = NaN if x has infinities
  // or NaN.
  float (*quantize_q16)(const float* x, int n, int16_t* q);
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
  // 16] is the sum of each half block of q: products of unsigned by signed bytes, w + 128 by x, are too large by 128
  // times that; and weights with a minimum need it.
  void (*quantize_q8)(const float* x, int8_t* q, float* d, int16_t* s, int k);
  void (*f32_to_f16)(const float* x, uint16_t* out, int n);
  void (*add)(float* y, const float* x, int n);  // y += x
  // out = x / sqrt(mean(x²) + eps) · w; out may be x.
  void (*rms_norm)(const float* x, const float* w, float eps, int n, float* out);
  // out = (x - mean) / sqrt(mean((x - mean)²) + eps) · w + b, both means from sums in dot16's lanes and order; b may be
  // nullptr, out may be x.
  void (*layer_norm)(const float* x, const float* w, const float* b, float eps, int n, float* out);
  // out = gate / (1 + exp(-gate)) · up; out may be either.
  void (*swiglu)(const float* gate, const float* up, float* out, int n);
  // out = gelu(gate) · up, or gelu(gate) where up is nullptr; out may be either. GELU (Hendrycks & Gimpel 2016) by its
  // tanh approximation, and by erf, this to 1e-7 · |gate| (Abramowitz & Stegun 7.1.26).
  void (*gelu_tanh)(const float* gate, const float* up, float* out, int n);
  void (*gelu_erf)(const float* gate, const float* up, float* out, int n);
  // x = cap · tanh(scale · x / cap); NaN stays.
  void (*soft_cap)(float* x, float scale, float cap, int n);
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
void install_quants(Table&);
}  // namespace ref
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
