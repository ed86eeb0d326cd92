// What kernels are called with: plain structs, the same for the host and for every device compiler. Pointers are the
// device's. Shapes: m rows (tokens), n outputs, k depth, r rank.
#pragma once

#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wpadded"  // launches are compared byte by byte: nothing may lie between the members
namespace lora_edge::cuda {

// How a device keeps a weight. Floats as in files. Blocks of 32 with their numbers apart from their scales, each
// row-major, so that both are aligned. Numbers are 8-bit, signed, or 4-bit: byte i of 16 has element i in its low half
// and 16 + i in its high one. Values:
//   kQ8, kQ4            d · q, d · (q - 8)         a half d per block              Q8_0, Q5_0, IQ4_NL; Q4_0
//   kQ8Min, kQ4Min      d · q + dmin               halves d, dmin per block        Q5_1; Q4_1
//   kQ8Sub, kQ4Sub      d · s · q + dmin · m       d, dmin per 256; bytes s, m per block         Q5_K; Q4_K
//   kQ8Halves           the same                   s, s, m, m per block: of each 16; s signed    Q6_K, Q3_K, Q2_K
enum Kind { kF32, kF16, kBf16, kQ8, kQ4, kQ8Min, kQ4Min, kQ8Sub, kQ4Sub, kQ8Halves, kKinds };

// Of linears in blocks: one scale a block and no minimum.
constexpr bool is_plain(int kind) { return kind == kQ8 || kind == kQ4; }

struct Matrix {
  const void* q;      // numbers [n, k]
  const void* d;      // scales d and dmin [n, k / 32] or [n, k / 256]; nullptr of floats
  const void* s;      // bytes of scales and minima [n, k / 32], or nullptr
  const float* bias;  // [n] or nullptr
  int kind, n, k, unused = 0;
};

// One adapter's part in one linear of one row: u = scale · A·x lies in columns [u0, u0 + r) of the row's u.
struct Part {
  const void *a, *b;        // [r, k] and [n, r]; of the embedding a is [n_vocab, r]
  const float* bias;        // [n] of lora_B or nullptr
  const float* row_scales;  // [n] of DoRA or nullptr
  float scale;
  int r, u0;
  int a_kind, b_kind;  // floats
  int unused = 0;
};

// Parts [first, first + count) of a table.
struct PartRange {
  int first, count;
};

constexpr int kMostLinears = 3;  // that share their input

struct LinearOne {
  Matrix w;
  float* y;  // [m, w.n]
  int accumulate;
  float scale;              // of what is accumulated
  const PartRange* ranges;  // [m] or nullptr: no row has parts
  float* u;                 // [m, ldu]
};

struct LinearArgs {
  LinearOne linears[kMostLinears];
  int n_linears;
  int m, k, ldu;
  const float* x;  // [m, k]
  const signed char* xq;
  const float* xd;  // [m, k], [m, k / 32]: x quantised, where a weight is in blocks
  const Part* parts;
};

struct EmbedArgs {
  Matrix w;
  const int* tokens;        // [m]
  const PartRange* ranges;  // [m] or nullptr
  const Part* parts;
  float* x;  // [m, w.k]
  int add;   // to x
  int unused = 0;
};

// x[i] [n] for i < m; rows of x lie ld apart.
struct NormArgs {
  const float *x, *w, *b;  // b: nullptr for the root mean square's
  float* out;
  float* add_to;  // [m, n] or nullptr: the result is added there, too
  float eps;
  int n, rms, unused = 0;
};

struct QuantizeArgs {
  const float* x;
  signed char* q;
  float* d;
  int n_blocks;  // of all rows
  int unused = 0;
};

// What is made of the x of linears: x quantised, by the first blocks of threads, and u = scale · A·x by the others.
struct InputArgs {
  LinearArgs linear;
  QuantizeArgs quantize;
  int quantize_blocks, unused = 0;
};
constexpr int kManyRows = 4, kManyRanks = 4;  // that a block takes where there are many rows, else one of each

struct ActivateArgs {
  const float *gate, *up;  // up: nullptr where there is none
  float* out;
  int m, n, ld;  // rows of gate and up are ld apart
  int activation;
};

// op: 0 multiplies by `by`, 1 makes x = by · tanh(x / by), 2 takes row rows[i].
struct RowsArgs {
  const float* x;
  float* out;
  const int* rows;
  float by;
  int m, n, op;
};

// Where a row of a batch stands. pages: of its sequence.
struct Place {
  unsigned char* const* pages;
  int position, seen;
};

struct CacheLayout {
  long long head_bytes;   // of K, and of V, of one head's page
  long long layer_begin;  // byte at which the layer's first head begins in a page
  int half;               // halves, else floats
  int n_head_kv, head_dim, unused = 0;
};

struct RopeArgs {
  float *q, *k;  // rows ldq and ldkv apart
  const float *v, *cos, *sin, *q_norm, *k_norm;
  const Place* places;
  CacheLayout cache;
  float eps;
  int ldq, ldkv, n_head, n_rot, interleaved;
  int qk_norm, rms;  // QkNorm; kind of norm
};

// Rows [begin, end): consecutive positions of one sequence.
struct RowBlock {
  int begin, end;
};

struct AttentionArgs {
  const float* q;  // [m, n_head, head_dim], rows ldq apart
  float* out;      // [m, n_head, head_dim]
  float* states;   // [blocks, n_head_kv, spans, queries, head_dim + 2], or nullptr where all is one span
  const RowBlock* blocks;
  const Place* places;
  CacheLayout cache;
  float scale, cap;
  int ldq, n_head, window, n_spans, most_queries, unused = 0;
};

constexpr int kStretch = 4096;  // logits, or keys, that a block sorts

// Of the logits of a stretch: the largest, the smallest, Σ exp(logit - most).
struct Stretch {
  float most, least, total;
};

// Rows of n logits, or where these are nullptr of n keys: to the first k keys of each stretch, 0 where it has fewer.
struct LikeliestArgs {
  const float* logits;
  const unsigned long long* keys;
  unsigned long long* out;  // [m, stretches, k]
  Stretch* stretches;       // [m, stretches], of logits
  int n, k;
};

struct PeakArgs {
  int* out;  // [blocks, threads]
  int rounds, unused = 0;
};

}  // namespace lora_edge::cuda
#pragma GCC diagnostic pop
