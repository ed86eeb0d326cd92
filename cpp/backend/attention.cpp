#include "backend/attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/prefetch.h"

namespace lora_edge {
namespace {

// Queries that walk the context together. Each page is converted to f32 once for all of them: at 48 that is some 5 % of
// the work. More would leave fewer blocks of rows for the threads.
constexpr int kQueries = 48;
// So few are one tile of the low-rank kernel, which converts as it reads.
constexpr int kDirectQueries = 3;

// Floats from one state of the running softmax to the next: weighted values [d], maximum, sum; whole cache lines.
size_t state_size(int d) { return (static_cast<size_t>(d) + 2 + 15) / 16 * 16; }

// A region with fewer tasks than this per thread is cut along the context, too.
constexpr int kTasksPerThread = 4;

}  // namespace

void Attention::store(const KvLayout& kv, int layer, const RowPlace& row, const float* k, const float* v) const {
  const size_t d = static_cast<size_t>(kv.head_dim), slot = static_cast<size_t>(row.position % kPagePositions);
  uint8_t* page = row.kv->page(row.position);
  for (int h = 0; h < kv.n_head_kv; ++h, k += d, v += d) {
    uint8_t *keys = page + kv.offset(layer, h, false), *values = page + kv.offset(layer, h, true);
    if (kv.type == DType::f32) {
      for (size_t t = 0; t < d; ++t) reinterpret_cast<float*>(keys)[t * kPagePositions + slot] = k[t];
      std::memcpy(values + slot * d * sizeof(float), v, d * sizeof(float));
      continue;
    }
    for (size_t b = 0; b < d; b += kBlock) {
      const size_t n = std::min(d - b, static_cast<size_t>(kBlock));
      if (kv.type == DType::f16) {
        uint16_t half[kBlock];
        table_.f32_to_f16(k + b, half, static_cast<int>(n));
        for (size_t t = 0; t < n; ++t) reinterpret_cast<uint16_t*>(keys)[(b + t) * kPagePositions + slot] = half[t];
        table_.f32_to_f16(v + b, reinterpret_cast<uint16_t*>(values) + slot * d + b, static_cast<int>(n));
        continue;
      }
      int8_t q[kBlock];
      float scale;
      int16_t sums[2];
      BlockQ8_0 block;
      table_.quantize_q8(k + b, q, &scale, sums, kBlock);
      for (size_t t = 0; t < n; ++t) reinterpret_cast<int8_t*>(keys)[(b + t) * kPagePositions + slot] = q[t];
      uint16_t* scales = reinterpret_cast<uint16_t*>(keys + d * kPagePositions);
      table_.f32_to_f16(&scale, &scales[b / kBlock * kPagePositions + slot], 1);
      table_.quantize_q8(v + b, block.qs, &scale, sums, kBlock);
      table_.f32_to_f16(&scale, &block.d, 1);
      std::memcpy(values + slot * row_bytes(DType::q8_0, d) + b / kBlock * sizeof(block), &block, sizeof(block));
    }
  }
}

const void* Attention::keys(const Job& job, const uint8_t* page, bool direct) const {
  const uint8_t* keys = page + job.k_offset;
  const int n = job.d * kPagePositions;
  if (direct) return keys;
  if (job.kv->type == DType::q8_0) {
    table_.dequantize_keys(reinterpret_cast<const int8_t*>(keys), reinterpret_cast<const uint16_t*>(keys + n), job.d,
                           job.page);
  } else {
    table_.dequantize[int(job.kv->type)](keys, job.page, n);
  }
  return job.page;
}

const void* Attention::values(const Job& job, const uint8_t* page, int count, bool direct) const {
  if (direct) return page + job.v_offset;
  table_.dequantize[int(job.kv->type)](page + job.v_offset, job.page, count * job.d);
  return job.page;
}

// states [rows · heads, d + 2] of the kSpanPages pages from first_page on. Rows that see nothing of them are left as
// they begin. A row sees the positions [low, seen) of a page.
void Attention::span(const Job& job, int first_page, float* states) const {
  const size_t size = state_size(job.d), queries = static_cast<size_t>(job.rows * job.heads);
  for (size_t i = 0; i < queries; ++i) {
    std::fill_n(states + i * size, size, 0.0f);
    states[i * size + static_cast<size_t>(job.d)] = -std::numeric_limits<float>::infinity();
  }
  const int end = job.n_pos + (job.rows - 1) * job.step;  // positions that the last row sees
  const bool direct = queries <= kDirectQueries && job.kv->type != DType::q8_0;
  const int type = direct ? int(job.kv->type) : int(DType::f32);
  const int skipped = begin_of(job, 0) / kPagePositions;  // pages that no row sees
  for (int page = std::max(first_page, skipped); page < first_page + kSpanPages && page * kPagePositions < end;
       ++page) {
    const uint8_t* data = job.pages[page];
    const auto seen = [&](int row) {
      return std::min(job.n_pos + row * job.step - page * kPagePositions, kPagePositions);
    };
    const auto low = [&](int row) { return std::max(0, begin_of(job, row) - page * kPagePositions); };
    const int first = std::max(0, 1 - seen(0));  // the first row that sees any of it
    int last = job.rows;                         // and the one after the last
    while (low(last - 1) >= kPagePositions) --last;
    const int most = seen(last - 1), columns = (most + 31) / 32 * 32;
    // A page's keys of a head, and its values, are some KB far from the next page's: too short for the hardware to see
    // them coming. So values are asked for while keys are multiplied, and the next keys meanwhile: line by line where
    // the products read them from there.
    const uint8_t* next_keys = (page + 1) * kPagePositions < end ? job.pages[page + 1] + job.k_offset : nullptr;
    if (!direct) prefetch(data + job.v_offset, size_t(most) * row_bytes(job.kv->type, size_t(job.d)));
    const auto query = [&](int row) { return static_cast<size_t>(row * job.heads); };
    float* p = job.p + query(first) * kPagePositions;
    const int n = (last - first) * job.heads;
    std::fill_n(p, static_cast<size_t>(n) * kPagePositions, 0.0f);
    table_.lowrank[type]({keys(job, data, direct), kPagePositions, job.d, n,
                          job.q + query(first) * static_cast<size_t>(job.d), static_cast<size_t>(job.d), p,
                          kPagePositions, low(first) / 32 * 32, columns, direct ? data + job.v_offset : nullptr});
    const uint8_t* v = nullptr;
    for (int row = first; row < last;) {  // rows that see the same of the page together
      int next = row + 1;
      while (next < last && seen(next) == seen(row) && low(next) == low(row)) ++next;
      const int m = (next - row) * job.heads, count = seen(row) - low(row);
      float *scores = job.p + query(row) * kPagePositions + low(row), *state = states + query(row) * size;
      for (int i = 0; job.cap > 0.0f && i < m; ++i)
        table_.soft_cap(scores + i * kPagePositions, job.scale, job.cap, count);
      table_.softmax_page(scores, count, m, job.cap > 0.0f ? 1.0f : job.scale, state, size, job.d);
      if (!v) {
        if (next_keys && !direct) prefetch(next_keys, job.v_offset - job.k_offset);
        v = static_cast<const uint8_t*>(values(job, data, most, direct));  // only now: it takes the keys' place
      }
      const size_t below = static_cast<size_t>(low(row)) * row_bytes(static_cast<DType>(type), size_t(job.d));
      table_.lowrank[type](
          {v + below, job.d, count, m, scores, kPagePositions, state, size, 0, job.d, direct ? next_keys : nullptr});
      row = next;
    }
  }
}

void Attention::find_blocks(const std::vector<RowPlace>& rows, int most) {
  blocks_.clear();
  for (int i = 0; i < int(rows.size()); ++i) {
    const RowPlace& row = rows[size_t(i)];
    if (!blocks_.empty()) {
      Block& last = blocks_.back();
      const RowPlace& before = rows[size_t(i) - 1];
      if (before.kv == row.kv && before.position + 1 == row.position && i - last.begin < most) {
        last.end = i + 1;
        continue;
      }
    }
    blocks_.push_back({i, i + 1});
  }
}

void Attention::run(const Config& c, const KvLayout& kv, int layer, const std::vector<RowPlace>& rows, const float* q,
                    size_t ldq, float* out) {
  const int heads = c.n_head / c.n_head_kv, d = c.head_dim, most_rows = std::max(1, kQueries / heads);
  find_blocks(rows, most_rows);
  const size_t size = state_size(d), most = static_cast<size_t>(most_rows * heads), dd = static_cast<size_t>(d);
  // A thread's: q, p, a page, two spans' states.
  const size_t per_thread = most * (dd + kPagePositions + 2 * size) + dd * kPagePositions;
  float* scratch = scratch_.get<float>(per_thread * static_cast<size_t>(pool_.size()));
  const auto spans_of = [&](const Block& b) {
    return (rows[size_t(b.end) - 1].seen - 1) / kPagePositions / kSpanPages + 1;
  };
  const auto job_of = [&](const Block& b, int h, int thread) {
    Job job{};
    const RowPlace& first = rows[size_t(b.begin)];
    job.kv = &kv;
    job.pages = first.kv->pages();
    job.k_offset = kv.offset(layer, h, false);
    job.v_offset = kv.offset(layer, h, true);
    job.rows = b.end - b.begin;
    job.heads = heads;
    job.d = d;
    job.n_pos = first.seen;
    job.step = c.causal ? 1 : 0;
    job.window = c.layers[static_cast<size_t>(layer)].window;
    job.scale = c.attention_scale;
    job.cap = c.attention_cap;
    job.q = scratch + per_thread * static_cast<size_t>(thread);
    job.p = job.q + most * dd;
    job.page = job.p + most * kPagePositions;
    for (int row = 0; row < job.rows; ++row)
      std::copy_n(q + size_t(b.begin + row) * ldq + size_t(h * heads) * dd, size_t(heads) * dd,
                  job.q + size_t(row * heads) * dd);
    return job;
  };
  const auto first_span = [&](const Job& job, int row) { return begin_of(job, row) / (kSpanPages * kPagePositions); };
  // The states of the rows that see more than the spans before: merged, or taken over where a row begins here.
  const auto merge = [&](const Job& job, int s, float* states, const float* later) {
    const int from = std::max(0, s * kSpanPages * kPagePositions - job.n_pos + 1);
    for (int i = from * heads; i < job.rows * heads; ++i) {
      const int begun = first_span(job, i / heads);
      if (begun < s) table_.softmax_merge(states + size_t(i) * size, later + size_t(i) * size, d);
      if (begun == s) std::copy_n(later + size_t(i) * size, size, states + size_t(i) * size);
    }
  };
  const auto finish = [&](const Block& b, int h, const float* states) {
    for (int i = 0; i < (b.end - b.begin) * heads; ++i) {
      const float* state = states + size_t(i) * size;
      float* to = out + (size_t(b.begin + i / heads) * size_t(c.n_head) + size_t(h * heads + i % heads)) * dd;
      const float scale = 1.0f / state[d + 1];
      for (size_t t = 0; t < dd; ++t) to[t] = state[t] * scale;
    }
  };

  const int n_tasks = int(blocks_.size()) * c.n_head_kv;
  int n_spans = 1;
  for (const Block& b : blocks_) n_spans = std::max(n_spans, spans_of(b));
  if (n_spans > 1 && n_tasks < kTasksPerThread * pool_.size()) {
    const size_t part = most * size;
    float* parts = parts_.get<float>(size_t(n_tasks) * size_t(n_spans) * part);
    pool_.run(n_tasks * n_spans, [&](int i, int thread) {
      const int task = i / n_spans, s = i % n_spans;
      const Block& b = blocks_[size_t(task / c.n_head_kv)];
      if (s < spans_of(b)) span(job_of(b, task % c.n_head_kv, thread), s * kSpanPages, parts + size_t(i) * part);
    });
    pool_.run(n_tasks, [&](int task, int thread) {
      const Block& b = blocks_[size_t(task / c.n_head_kv)];
      const int h = task % c.n_head_kv;
      const Job job = job_of(b, h, thread);
      const float* all = parts + size_t(task * n_spans) * part;
      const int first = first_span(job, 0);
      float* states = parts + size_t(task * n_spans + first) * part;
      for (int s = first + 1; s < spans_of(b); ++s) merge(job, s, states, all + size_t(s) * part);
      finish(b, h, states);
    });
    return;
  }
  pool_.run(n_tasks, [&](int task, int thread) {
    const Block& b = blocks_[size_t(task / c.n_head_kv)];
    const int h = task % c.n_head_kv;
    const Job job = job_of(b, h, thread);
    float *states = job.page + dd * kPagePositions, *later = states + most * size;
    const int first = first_span(job, 0);
    span(job, first * kSpanPages, states);
    for (int s = first + 1; s < spans_of(b); ++s) {
      span(job, s * kSpanPages, later);
      merge(job, s, states, later);
    }
    finish(b, h, states);
  });
}

}  // namespace lora_edge
