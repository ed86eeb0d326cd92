// Attention of a block of rows and the query heads that share one KV head, over spans of 8 pages of 64 positions, with
// a running maximum (Milakov & Gimelshein 2018). A row's bits depend on its own positions alone: a score is one sum
// over the head's elements, a value one over a page's positions, and pages and spans are taken in order.
#include "device.h"
//
#include "args.h"
#include "functions.h"
#include "load.h"

namespace lora_edge::cuda {

constexpr int kThreads = 128;
constexpr int kPage = 64, kSpanPages = 8;
constexpr int kTile = 8;    // queries for which a thread keeps sums while it reads a key or value once
constexpr int kAhead = 16;  // keys or values that it asks for together: threads work in order

template <bool half>
DEVICE float load_kv(const void* p, int i) {
  if constexpr (half) return half_to_float(load_cached(static_cast<const unsigned short*>(p) + i));
  return load_cached(static_cast<const float*>(p) + i);
}

// What a block works with in shared memory: queries [n, d], scores [n, kPage], states [n, d + 2].
struct Shared {
  float *q, *p, *state;
};

DEVICE Shared shared_of(int queries, int d) {
  float* at = reinterpret_cast<float*>(dynamic_shared());
  return {at, at + queries * d, at + queries * (d + kPage)};
}

// The positions of a page that a query sees: [low, high).
struct Seen {
  int low, high;
};

DEVICE Seen seen_of(const AttentionArgs& a, const Place& place, int page) {
  const int first = a.window > 0 && place.seen > a.window ? place.seen - a.window : 0;
  int low = first - page * kPage, high = place.seen - page * kPage;
  high = high < kPage ? high : kPage;
  high = high > 0 ? high : 0;
  low = low > 0 ? low : 0;
  return {low < high ? low : high, high};
}

// sum[i] += weights[i · ld + t] · p[t · stride] for t < n, in order, of the queries i < count.
template <bool half, int tile>
DEVICE void add_up(const void* p, int first, int stride, int n, const float* weights, int ld, int count, float* sum) {
  for (int t0 = 0; t0 < n; t0 += kAhead) {
    float value[kAhead];
#pragma unroll
    for (int t = 0; t < kAhead; ++t) value[t] = load_kv<half>(p, first + (t0 + t < n ? t0 + t : n - 1) * stride);
#pragma unroll
    for (int t = 0; t < kAhead; ++t) {
#pragma unroll
      for (int i = 0; i < tile; ++i)
        if (t0 + t < n) sum[i] = fma_(weights[(i < count ? i : count - 1) * ld + t0 + t], value[t], sum[i]);
    }
  }
}
DEVICE void add_up(int half, const void* p, int first, int stride, int n, const float* weights, int ld, int count,
                   float (&sum)[kTile]) {
  if (half) {
    if (count == 1) return add_up<true, 1>(p, first, stride, n, weights, ld, count, sum);
    if (count <= 4) return add_up<true, 4>(p, first, stride, n, weights, ld, count, sum);
    return add_up<true, kTile>(p, first, stride, n, weights, ld, count, sum);
  }
  add_up<false, kTile>(p, first, stride, n, weights, ld, count, sum);
}

DEVICE void scores(const AttentionArgs& a, const Shared& s, int queries, const unsigned char* keys) {
  const int d = a.cache.head_dim, j = thread_id() % kPage;
  for (int q0 = thread_id() / kPage * kTile; q0 < queries; q0 += kThreads / kPage * kTile) {
    const int count = queries - q0 < kTile ? queries - q0 : kTile;
    float sum[kTile] = {};
    add_up(a.cache.half, keys, j, kPage, d, s.q + q0 * d, d, count, sum);
#pragma unroll
    for (int i = 0; i < kTile; ++i)
      if (i < count) s.p[(q0 + i) * kPage + j] = sum[i];
  }
}

// A warp for each query: its scores of a page become exp(score - max), what it has of the pages before is scaled.
DEVICE void softmax(const AttentionArgs& a, const Shared& s, int queries, int group, int row0, int page) {
  const int d = a.cache.head_dim, lane = thread_id() % 32;
  for (int i = thread_id() / 32; i < queries; i += kThreads / 32) {
    const Seen seen = seen_of(a, a.places[row0 + i / group], page);
    float *p = s.p + i * kPage, *state = s.state + i * (d + 2);
    if (seen.low == seen.high) {
      p[lane] = p[lane + 32] = 0.0f;
      continue;
    }
    float score[2], most = state[d];
    const float before = most;
    for (int h = 0; h < 2; ++h) {
      const int j = lane + 32 * h;
      float x = a.cap > 0.0f ? soft_cap(p[j], a.scale, a.cap) : p[j] * a.scale;
      x = j >= seen.low && j < seen.high ? x : -kInfinity;
      score[h] = x;
      most = x > most ? x : most;
    }
    for (int apart = 16; apart > 0; apart /= 2) {
      const float other = shuffle_xor(most, apart);
      most = other > most ? other : most;
    }
    float sum = 0.0f;
    for (int h = 0; h < 2; ++h) {
      const int j = lane + 32 * h;
      const float e = j >= seen.low && j < seen.high ? exp_(score[h] - most) : 0.0f;
      p[j] = e;
      sum += e;
    }
    for (int apart = 16; apart > 0; apart /= 2) sum += shuffle_xor(sum, apart);
    const float keep = exp_(before - most);
    for (int t = lane; t < d; t += 32) state[t] *= keep;
    if (lane == 0) {
      state[d] = most;
      state[d + 1] = fma_(state[d + 1], keep, sum);
    }
  }
}

DEVICE void values(const AttentionArgs& a, const Shared& s, int queries, int most_seen, const unsigned char* v) {
  const int d = a.cache.head_dim, tiles = (queries + kTile - 1) / kTile;
  for (int item = thread_id(); item < d * tiles; item += kThreads) {
    const int t = item % d, q0 = item / d * kTile, count = queries - q0 < kTile ? queries - q0 : kTile;
    float* state = s.state + q0 * (d + 2) + t;
    float sum[kTile];
#pragma unroll
    for (int i = 0; i < kTile; ++i) sum[i] = i < count ? state[i * (d + 2)] : 0.0f;
    add_up(a.cache.half, v, t, d, most_seen, s.p + q0 * kPage, kPage, count, sum);
#pragma unroll
    for (int i = 0; i < kTile; ++i)
      if (i < count) state[i * (d + 2)] = sum[i];
  }
}

// block_x: the block of rows; block_y: the KV head; block_z: the span.
KERNEL(attention, AttentionArgs, 128) {
  const RowBlock rows = a.blocks[block_x()];
  const int d = a.cache.head_dim, group = a.n_head / a.cache.n_head_kv, head = block_y() * group;
  const int queries = (rows.end - rows.begin) * group;
  const Shared s = shared_of(a.most_queries, d);
  for (int i = thread_id(); i < queries * d; i += kThreads) {
    const int query = i / d;
    s.q[i] = a.q[static_cast<long long>(rows.begin + query / group) * a.ldq + (head + query % group) * d + i % d];
  }
  for (int i = thread_id(); i < queries * (d + 2); i += kThreads) s.state[i] = i % (d + 2) == d ? -kInfinity : 0.0f;
  sync();

  const Place first = a.places[rows.begin], last = a.places[rows.end - 1];
  const int begin = a.window > 0 && first.seen > a.window ? (first.seen - a.window) / kPage : 0;
  const int end = (last.seen + kPage - 1) / kPage;
  int page = block_z() * kSpanPages, stop = page + kSpanPages;
  page = page > begin ? page : begin;
  stop = stop < end ? stop : end;
  for (; page < stop; ++page) {
    const unsigned char* keys =
        first.pages[page] + a.cache.layer_begin + 2 * static_cast<long long>(block_y()) * a.cache.head_bytes;
    scores(a, s, queries, keys);
    sync();
    softmax(a, s, queries, group, rows.begin, page);
    sync();
    values(a, s, queries, seen_of(a, last, page).high, keys + a.cache.head_bytes);
    sync();
  }
  if (a.states) {
    const long long at =
        ((static_cast<long long>(block_x()) * a.cache.n_head_kv + block_y()) * a.n_spans + block_z()) * a.most_queries;
    for (int i = thread_id(); i < queries * (d + 2); i += kThreads) a.states[at * (d + 2) + i] = s.state[i];
    return;
  }
  for (int i = thread_id(); i < queries * d; i += kThreads) {
    const int query = i / d;
    const float* state = s.state + query * (d + 2);
    a.out[(static_cast<long long>(rows.begin + query / group) * a.n_head + head + query % group) * d + i % d] =
        state[i % d] * (1.0f / state[d + 1]);
  }
}

// The spans of a block's queries become one. block_x: the block of rows; block_y: the KV head.
KERNEL(merge_spans, AttentionArgs, 128) {
  const RowBlock rows = a.blocks[block_x()];
  const int d = a.cache.head_dim, group = a.n_head / a.cache.n_head_kv, head = block_y() * group;
  const int queries = (rows.end - rows.begin) * group;
  const long long size = static_cast<long long>(a.most_queries) * (d + 2);
  const float* states =
      a.states + (static_cast<long long>(block_x()) * a.cache.n_head_kv + block_y()) * a.n_spans * size;
  for (int i = thread_id(); i < queries * d; i += kThreads) {
    const int query = i / d, t = i % d;
    float y = 0.0f, most = -kInfinity, sum = 0.0f;
    for (int span = 0; span < a.n_spans; ++span) {
      const float* state = states + span * size + query * (d + 2);
      const float later = state[d];
      if (later == -kInfinity) continue;
      const float next = later > most ? later : most, keep = exp_(most - next), add = exp_(later - next);
      y = fma_(state[t], add, y * keep);
      sum = fma_(state[d + 1], add, sum * keep);
      most = next;
    }
    a.out[(static_cast<long long>(rows.begin + query / group) * a.n_head + head + query % group) * d + t] =
        y * (1.0f / sum);
  }
}

}  // namespace lora_edge::cuda
