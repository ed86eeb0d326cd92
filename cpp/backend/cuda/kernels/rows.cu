// Operations on rows: embeddings, norms, activations.
#include "device.h"
//
#include "args.h"
#include "functions.h"
#include "load.h"

namespace lora_edge::cuda {

constexpr int kThreads = 128;

// x[i] = W[tokens[i]] + Σ B·(scale · A[tokens[i]]), or added to x. block_x: the row.
KERNEL(embed, EmbedArgs, 128) {
  const int row = block_x(), token = a.tokens[row], n = a.w.k;
  float* out = a.x + static_cast<long long>(row) * n;
  const PartRange range = a.ranges ? a.ranges[row] : PartRange{0, 0};
  for (int j = thread_id(); j < n; j += kThreads) {
    float y = load_weight(a.w, token, j);
    for (int p = range.first; p < range.first + range.count; ++p) {
      const Part& part = a.parts[p];
      for (int t = 0; t < part.r; ++t) {
        const float u = load_float(part.a, part.a_kind, static_cast<long long>(token) * part.r + t) * part.scale;
        y = fma_(u, load_float(part.b, part.b_kind, static_cast<long long>(j) * part.r + t), y);
      }
      if (part.bias) y += part.scale * part.bias[j];
      if (part.row_scales) y *= part.row_scales[j];
    }
    out[j] = a.add ? out[j] + y : y;
  }
}

// The sum of every thread's value, the same in all: warps' trees, then the warps in order.
DEVICE float sum_of_block(float value, float* shared) {
  for (int apart = 16; apart > 0; apart /= 2) value += shuffle_xor(value, apart);
  sync();
  if (thread_id() % 32 == 0) shared[thread_id() / 32] = value;
  sync();
  float sum = 0.0f;
  for (int w = 0; w < kThreads / 32; ++w) sum += shared[w];
  return sum;
}

// f(j, x[j]) for this thread's j < n. Threads work in order, so some loads come first.
template <class F>
DEVICE void each_of(const float* x, int n, const F& f) {
  constexpr int kAhead = 8;
  for (int j0 = thread_id(); j0 < n; j0 += kAhead * kThreads) {
    float v[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) v[i] = x[j0 + i * kThreads < n ? j0 + i * kThreads : j0];
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (j0 + i * kThreads < n) f(j0 + i * kThreads, v[i]);
  }
}

DEVICE void norm_row(const float* x, const float* w, const float* b, float eps, int n, int rms, float* out,
                     float* add_to, float* shared) {
  float mean = 0.0f, square = 0.0f;
  if (!rms) {
    each_of(x, n, [&](int, float v) { mean += v; });
    mean = sum_of_block(mean, shared) / static_cast<float>(n);
  }
  each_of(x, n, [&](int, float v) { square = fma_(v - mean, v - mean, square); });
  square = sum_of_block(square, shared) / static_cast<float>(n);
  const float scale = 1.0f / sqrt_(square + eps);
  each_of(w, n, [&](int j, float weight) {
    float y = (x[j] - mean) * scale * weight;
    if (b) y += b[j];
    if (add_to) {
      add_to[j] += y;
    } else {
      out[j] = y;
    }
  });
}

KERNEL(norm, NormArgs, 128) {
  SHARED float shared[kThreads / 32];
  const long long row = static_cast<long long>(block_x()) * a.n;
  norm_row(a.x + row, a.w, a.b, a.eps, a.n, a.rms, a.out + row, a.add_to ? a.add_to + row : nullptr, shared);
}

KERNEL(activate, ActivateArgs, 128) {
  const long long i = static_cast<long long>(block_x()) * kThreads + thread_id();
  if (i >= static_cast<long long>(a.m) * a.n) return;
  const long long from = i / a.n * a.ld + i % a.n;
  const float gate = a.gate[from];
  float y = a.activation == 0 ? silu(gate) : a.activation == 1 ? gelu_tanh(gate) : gelu_erf(gate);
  if (a.up) y *= a.up[from];
  a.out[i] = y;
}

// Rows ascend, so that a row may take the place of an earlier one where one block of threads does all.
KERNEL(rows, RowsArgs, 128) {
  const long long n = a.n;
  if (a.op == 2) {
    for (int i = 0; i < a.m; ++i)
      for (int j = thread_id(); j < a.n; j += kThreads) a.out[i * n + j] = a.x[a.rows[i] * n + j];
    return;
  }
  const long long i = static_cast<long long>(block_x()) * kThreads + thread_id();
  if (i >= a.m * n) return;
  a.out[i] = a.op == 0 ? a.x[i] * a.by : soft_cap(a.x[i], 1.0f, a.by);
}

DEVICE void norm_heads(float* x, int heads, int d, const float* w, const RopeArgs& a, float* shared) {
  if (a.qk_norm == 3) {  // QkNorm::whole
    norm_row(x, w, nullptr, a.eps, heads * d, a.rms, x, nullptr, shared);
    sync();
  } else if (a.qk_norm != 0) {
    for (int h = 0; h < heads; ++h) {
      norm_row(x + h * d, a.qk_norm == 2 ? w + h * d : w, nullptr, a.eps, d, a.rms, x + h * d, nullptr, shared);
      sync();
    }
  }
}

DEVICE void rotate(float* x, int heads, int d, const RopeArgs& a, int row) {
  const int half = a.n_rot / 2;
  for (int i = thread_id(); i < heads * half; i += kThreads) {
    const int h = i / half, t = i % half;
    float* even = x + h * d + (a.interleaved ? 2 * t : t);
    float* odd = a.interleaved ? even + 1 : even + half;
    const float cos = a.cos[row * half + t], sin = a.sin[row * half + t], e = *even, o = *odd;
    *even = fma_(e, cos, -(o * sin));
    *odd = fma_(e, sin, o * cos);
  }
}

// One row: q and k normed and rotated, k and v stored. block_x: the row.
KERNEL(rope_store, RopeArgs, 128) {
  SHARED float shared[kThreads / 32];
  const int row = block_x(), d = a.cache.head_dim, heads = a.cache.n_head_kv;
  float* q = a.q + static_cast<long long>(row) * a.ldq;
  float* k = a.k + static_cast<long long>(row) * a.ldkv;
  const float* v = a.v + static_cast<long long>(row) * a.ldkv;
  norm_heads(q, a.n_head, d, a.q_norm, a, shared);
  norm_heads(k, heads, d, a.k_norm, a, shared);
  if (a.cos) {
    rotate(q, a.n_head, d, a, row);
    rotate(k, heads, d, a, row);
  }
  sync();
  const Place place = a.places[row];
  unsigned char* page = place.pages[place.position / 64] + a.cache.layer_begin;
  const int slot = place.position % 64;
  for (int i = thread_id(); i < heads * d; i += kThreads) {
    const int h = i / d, t = i % d;
    unsigned char *keys = page + 2 * h * a.cache.head_bytes, *values = keys + a.cache.head_bytes;
    if (a.cache.half) {
      reinterpret_cast<unsigned short*>(keys)[t * 64 + slot] = float_to_half(k[i]);
      reinterpret_cast<unsigned short*>(values)[slot * d + t] = float_to_half(v[i]);
    } else {
      reinterpret_cast<float*>(keys)[t * 64 + slot] = k[i];
      reinterpret_cast<float*>(values)[slot * d + t] = v[i];
    }
  }
}

}  // namespace lora_edge::cuda
