// The backend of the CPU: splits each operation into chunks for the thread pool and calls the kernel table on them.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "backend/attention.h"
#include "backend/backend.h"
#include "backend/buffer.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace lora_edge {
namespace {

// Weights in a chunk of a linear. A chunk begins with a miss that no prefetch hides (some 0.3 µs), so it is long beside
// that; with many rows it shrinks, so that a thread that lost its core holds up little.
constexpr size_t kChunkBytes = 256 * 1024;
constexpr int kChunkRows = 16;     // rows for which a chunk has its full length
constexpr int kChunkOutputs = 16;  // the kernels' panels: chunks are whole multiples
constexpr int kRowChunk = 8;
constexpr int kTaskRows = 24;
constexpr int kRankChunk = 8;
// A thread that needs u = A·x polls this many times before it offers its core to those that make it.
constexpr int kPolls = 2000;

// One adapter's part in one linear for the rows of one group: u = scale · A·x lies in columns [u0, u0 + r) of the u
// rows.
struct LowRankPart {
  int linear;
  RowGroup group;
  const LoraWeight* weight;
  float scale;
  int u0;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, const std::vector<int>& cpus)
      : table_(active_table()), pool_(threads, cpus), attention_(table_, pool_) {
    scratch_.get<uint8_t>(static_cast<size_t>(pool_.size()) * kScratchBytes);
  }

  int threads() const override { return pool_.size(); }
  size_t n_bytes() const override {
    return scratch_.size() + xq_.size() + xd_.size() + xs_.size() + u_.size() + y_.size() + attention_.n_bytes();
  }

  void embed(const Weight& w, int id, const int* tokens, const std::vector<RowGroup>& groups, int m,
             float* x) override {
    const size_t stride = row_bytes(w.type, static_cast<size_t>(w.k));
    for (int i = 0; i < m; ++i)
      table_.dequantize[int(w.type)](w.data + static_cast<size_t>(tokens[i]) * stride, x + size_t(i) * w.k, w.k);
    for (const RowGroup& group : groups) {
      for (const ActiveAdapter& active : *group.adapters) {
        const LoraWeight& lora = active.adapter->at(id);
        if (lora.r == 0 || active.weight == 0.0f) continue;
        float* u = u_.get<float>(static_cast<size_t>(lora.r));
        const size_t a_stride = row_bytes(lora.a_type, static_cast<size_t>(lora.r));
        const float scale = lora.scale * active.weight;
        for (int i = group.begin; i < group.end; ++i) {
          table_.dequantize[int(lora.a_type)](lora.a + static_cast<size_t>(tokens[i]) * a_stride, u, lora.r);
          for (int t = 0; t < lora.r; ++t) u[t] *= scale;
          low_rank_output(lora, w.k, u, size_t(lora.r), 1, x + size_t(i) * w.k, 0, w.k, 0);
        }
      }
    }
  }

  void rms_norm(const float* x, const float* w, float eps, int m, int n, float* out) override {
    for_rows(m, [&](int i) { table_.rms_norm(x + size_t(i) * n, w, eps, n, out + size_t(i) * n); });
  }

  void linear(const std::vector<Linear>& linears, const float* x, int m, const std::vector<RowGroup>& groups) override {
    const int k = linears[0].weight->k;
    const int ldu = low_rank_parts(linears, groups);
    low_rank_tasks();
    float* u = parts_.empty() ? nullptr : u_.get<float>(size_t(m) * ldu);

    const bool quantised =
        std::any_of(linears.begin(), linears.end(), [](const Linear& l) { return l.weight->type == DType::q8_0; });
    const int n_blocks = k / kBlock;
    int8_t* xq = quantised ? xq_.get<int8_t>(size_t(m) * k) : nullptr;
    float* xd = quantised ? xd_.get<float>(size_t(m) * n_blocks) : nullptr;
    int32_t* xs = quantised ? xs_.get<int32_t>(size_t(m) * n_blocks) : nullptr;
    if (quantised)
      for_rows(m, [&](int i) {
        const size_t block = size_t(i) * n_blocks;
        table_.quantize_q8(x + size_t(i) * k, xq + size_t(i) * k, xd + block, xs + block, k);
      });

    // Accumulating linears are made in a buffer of their own and added chunk by chunk.
    size_t extra = 0;
    for (const Linear& l : linears) extra += l.accumulate ? size_t(m) * l.weight->n : 0;
    float* own = y_.get<float>(extra);

    chunks_.clear();
    for (size_t i = 0; i < linears.size(); ++i) {
      const Weight& w = *linears[i].weight;
      const int step = chunk_outputs(w, m);
      float* y = linears[i].accumulate ? own : linears[i].y;
      if (linears[i].accumulate) own += size_t(m) * w.n;
      for (int n0 = 0; n0 < w.n; n0 += step) chunks_.push_back({int(i), n0, std::min(n0 + step, w.n), y});
    }
    // Chunks are claimed in order: A·x runs beside the first of W·x, and whoever waits for it waits for a thread that
    // waits for nobody.
    const int n_tasks = int(tasks_.size());
    std::atomic<int> tasks_left{n_tasks};
    pool_.run(n_tasks + int(chunks_.size()), [&](int c, int thread) {
      if (c < n_tasks) {
        low_rank_input(tasks_[size_t(c)], x, k, u, ldu, thread);
        tasks_left.fetch_sub(1, std::memory_order_release);
        return;
      }
      const Chunk& chunk = chunks_[size_t(c - n_tasks)];
      const Linear& l = linears[size_t(chunk.linear)];
      const Weight& w = *l.weight;
      const size_t n = size_t(w.n);
      const int width = chunk.n1 - chunk.n0;
      table_.matmul[int(w.type)]({w.data, row_bytes(w.type, size_t(k)), k, m, x, size_t(k), xq, xd, xs, chunk.y, n,
                                  chunk.n0, chunk.n1, scratch(thread)});
      if (w.bias)
        for (int i = 0; i < m; ++i) table_.add(chunk.y + i * n + chunk.n0, w.bias + chunk.n0, width);
      for (int polls = 0; tasks_left.load(std::memory_order_acquire) != 0; ++polls)
        if (polls >= kPolls) std::this_thread::yield();
      for (const LowRankPart& p : parts_) {
        if (p.linear != chunk.linear) continue;
        low_rank_output(*p.weight, w.n, u + size_t(p.group.begin) * ldu + p.u0, size_t(ldu),
                        p.group.end - p.group.begin, chunk.y + size_t(p.group.begin) * n, chunk.n0, chunk.n1, thread);
      }
      if (l.accumulate)
        for (int i = 0; i < m; ++i) table_.add(l.y + i * n + chunk.n0, chunk.y + i * n + chunk.n0, width);
    });
    // What the next region looks up first; weights have streamed through the caches since it was last used.
    for (const RowGroup& group : groups)
      for (const ActiveAdapter& active : *group.adapters) active.adapter->prefetch(linears.back().id + 1);
  }

  void rope_store(const Config& c, const KvLayout& kv, int layer, const std::vector<RowPlace>& rows, float* q, float* k,
                  const float* v, const float* q_norm, const float* k_norm, const float* cos,
                  const float* sin) override {
    const int hd = c.head_dim;
    for_rows(int(rows.size()), [&](int i) {
      const float* row_cos = cos + size_t(i) * (c.n_rot / 2);
      const float* row_sin = sin + size_t(i) * (c.n_rot / 2);
      for (int h = 0; h < c.n_head; ++h) {
        float* head = q + size_t(i) * c.q_dim() + h * hd;
        if (q_norm) table_.rms_norm(head, q_norm, c.rms_eps, hd, head);
        table_.rope(head, row_cos, row_sin, c.n_rot, c.rope_interleaved);
      }
      for (int h = 0; h < c.n_head_kv; ++h) {
        float* head = k + size_t(i) * c.kv_dim() + h * hd;
        if (k_norm) table_.rms_norm(head, k_norm, c.rms_eps, hd, head);
        table_.rope(head, row_cos, row_sin, c.n_rot, c.rope_interleaved);
      }
      attention_.store(kv, layer, rows[size_t(i)], k + size_t(i) * c.kv_dim(), v + size_t(i) * c.kv_dim());
    });
  }

  void attention(const Config& c, const KvLayout& kv, int layer, const std::vector<RowPlace>& rows, const float* q,
                 float* out) override {
    attention_.run(c, kv, layer, rows, q, out);
  }

  void swiglu(float* gate, const float* up, int m, int n) override {
    for_rows(m, [&](int i) { table_.swiglu(gate + size_t(i) * n, up + size_t(i) * n, gate + size_t(i) * n, n); });
  }

 private:
  struct Chunk {
    int linear, n0, n1;
    float* y;
  };
  // Rows [begin, end) and ranks [r0, r1) of a part's u.
  struct LowRankTask {
    const LowRankPart* part;
    int begin, end, r0, r1;
  };

  // Outputs per chunk: each thread gets as many chunks of a linear as any other.
  int chunk_outputs(const Weight& w, int m) const {
    const size_t threads = size_t(pool_.size()), n = size_t(w.n), bytes = n * row_bytes(w.type, size_t(w.k));
    const size_t round = threads * kChunkBytes * kChunkRows / size_t(std::max(m, kChunkRows));
    const size_t chunks = threads * ((bytes + round - 1) / round);
    return int(((n + chunks - 1) / chunks + kChunkOutputs - 1) / kChunkOutputs) * kChunkOutputs;
  }

  template <class Fn>
  void for_rows(int m, Fn&& fn) {
    if (m <= kRowChunk) {
      for (int i = 0; i < m; ++i) fn(i);
      return;
    }
    pool_.run((m + kRowChunk - 1) / kRowChunk, [&](int c, int) {
      for (int i = c * kRowChunk; i < std::min(m, (c + 1) * kRowChunk); ++i) fn(i);
    });
  }

  // Fills parts_; returns the columns of u.
  int low_rank_parts(const std::vector<Linear>& linears, const std::vector<RowGroup>& groups) {
    parts_.clear();
    int ldu = 0;
    for (const RowGroup& group : groups) {
      int u0 = 0;
      for (size_t l = 0; l < linears.size(); ++l) {
        for (const ActiveAdapter& active : *group.adapters) {
          const LoraWeight& weight = active.adapter->at(linears[l].id);
          if (weight.r == 0 || active.weight == 0.0f) continue;
          parts_.push_back({int(l), group, &weight, weight.scale * active.weight, u0});
          u0 += weight.r;
        }
      }
      ldu = std::max(ldu, u0);
    }
    return ldu;
  }

  // Cuts u = scale · A·x of all parts, with x as it is (not quantised), into pieces of some rows and ranks.
  void low_rank_tasks() {
    tasks_.clear();
    for (const LowRankPart& p : parts_)
      for (int i = p.group.begin; i < p.group.end; i += kTaskRows) {
        const int r = p.weight->r, even = (r + pool_.size() - 1) / pool_.size();
        const int step = std::max(kRankChunk, (even + 3) / 4 * 4);
        for (int t = 0; t < r; t += step)
          tasks_.push_back({&p, i, std::min(i + kTaskRows, p.group.end), t, std::min(t + step, r)});
      }
  }

  void low_rank_input(const LowRankTask& task, const float* x, int k, float* u, int ldu, int thread) {
    const LowRankPart& p = *task.part;
    const int rows = task.end - task.begin;
    float* out = u + size_t(task.begin) * ldu + p.u0;
    table_.matmul[int(p.weight->a_type)]({p.weight->a, row_bytes(p.weight->a_type, size_t(k)), k, rows,
                                          x + size_t(task.begin) * k, size_t(k), nullptr, nullptr, nullptr, out,
                                          size_t(ldu), task.r0, task.r1, scratch(thread)});
    for (int i = 0; i < rows; ++i)
      for (int t = task.r0; t < task.r1; ++t) out[size_t(i) * ldu + t] *= p.scale;
  }

  // y [m, n] += B·u over the outputs [n0, n1), panel by panel.
  void low_rank_output(const LoraWeight& weight, int n, const float* u, size_t ldu, int m, float* y, int n0, int n1,
                       int thread) {
    for (int j0 = n0 / kPanelOutputs * kPanelOutputs; j0 < n1; j0 += kPanelOutputs) {
      const int width = std::min(kPanelOutputs, n - j0);
      LowRankArgs args{
          nullptr, width, weight.r, m, u, ldu, y + j0, size_t(n), std::max(n0 - j0, 0), std::min(n1 - j0, width)};
      if (weight.panels) {
        args.bt = weight.panels + row_bytes(weight.b_type, size_t(j0) * size_t(weight.r));
        table_.lowrank[int(weight.b_type)](args);
        continue;
      }
      // Not settled yet: its rows are transposed each time, as many ranks as the scratch holds.
      constexpr int kRanks = int(kScratchBytes / (kPanelOutputs * sizeof(float)));
      const size_t stride = row_bytes(weight.b_type, size_t(weight.r));
      for (int t = 0; t < weight.r; t += kRanks) {
        float* panel = static_cast<float*>(scratch(thread));
        args.r = std::min(kRanks, weight.r - t);
        args.u = u + t;
        args.bt = panel;
        table_.transpose[int(weight.b_type)](weight.b + size_t(j0) * stride + row_bytes(weight.b_type, size_t(t)),
                                             stride, width, args.r, panel);
        table_.lowrank[int(DType::f32)](args);
      }
    }
  }

  void* scratch(int thread) { return scratch_.get<uint8_t>(0) + size_t(thread) * kScratchBytes; }

  const Table& table_;
  ThreadPool pool_;
  Attention attention_;
  Buffer scratch_, xq_, xd_, xs_, u_, y_;
  std::vector<Chunk> chunks_;
  std::vector<LowRankPart> parts_;
  std::vector<LowRankTask> tasks_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int threads, const std::vector<int>& cpus) {
  return std::make_unique<CpuBackend>(threads, cpus);
}

}  // namespace lora_edge
