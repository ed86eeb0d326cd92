// The backend of the CPU: splits each operation into chunks for the thread pool and calls the kernel table on them.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>
#include <utility>

#include "backend/attention.h"
#include "backend/backend.h"
#include "backend/buffer.h"
#include "backend/input_gradient.h"
#include "backend/low_rank.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace lora_edge {
namespace {

// Weights in a chunk of a linear. A chunk begins with a miss that no prefetch hides (some 0.3 µs), so it is long beside
// that; with many rows it shrinks, so that a thread that lost its core holds up little.
constexpr size_t kChunkBytes = 256 * 1024;
constexpr int kChunkRows = 16;  // rows for which a chunk has its full length
// Chunks are whole multiples of the kernels' panels, and from kManyRows rows on of pairs of them.
constexpr size_t kChunkOutputs = 16, kManyOutputs = 32;
constexpr int kManyRows = 6;
constexpr int kRowChunk = 8;
// A thread that needs u = A·x polls this many times before it offers its core to those that make it.
constexpr int kPolls = 2000;

// Rows [begin, end) that a linear runs with one weight.
struct Span {
  int linear, begin, end;
  const Weight* weight;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, const std::vector<int>& cpus)
      : table_(active_table()),
        pool_(threads, cpus),
        attention_(table_, pool_),
        low_rank_(table_),
        input_gradient_(table_, pool_) {
    scratch_.get<uint8_t>(static_cast<size_t>(pool_.size()) * kScratchBytes);
  }

  int threads() const override { return pool_.size(); }
  size_t n_bytes() const override {
    return scratch_.size() + xq_.size() + xd_.size() + xs_.size() + u_.size() + y_.size() + attention_.n_bytes();
  }

  bool is_host() const override { return true; }
  void* allocate(size_t n_bytes) override {
    void* data = ::operator new(n_bytes, std::align_val_t{64});
    std::memset(data, 0, n_bytes);
    return data;
  }
  void release(void* data) override { ::operator delete(data, std::align_val_t{64}); }
  void copy(void* to, const void* from, size_t n_bytes) override { std::memcpy(to, from, n_bytes); }
  void write(void* to, const void* from, size_t n_bytes) override { std::memcpy(to, from, n_bytes); }
  void read(void* to, const void* from, size_t n_bytes) override { std::memcpy(to, from, n_bytes); }
  void keep(const Weight&) override {}
  void begin(const Config&, const std::vector<RowPlace>&, const std::vector<RowGroup>&) override {}

  void embed(const Weight& w, int id, const int* tokens, const std::vector<RowGroup>& groups, int /*m*/,
             float* x) override {
    for (const RowGroup& group : groups) {
      const Weight& own = weight_of(w, id, group);
      const size_t stride = row_bytes(own.type, static_cast<size_t>(w.k));
      for (int i = group.begin; i < group.end; ++i)
        table_.dequantize[int(own.type)](own.data + static_cast<size_t>(tokens[i]) * stride, x + size_t(i) * w.k, w.k);
      for (const ActiveAdapter& active : *group.adapters) {
        const LoraWeight& lora = active.adapter->at(id);
        if (!works(active, lora, group)) continue;
        float* u = u_.get<float>(static_cast<size_t>(lora.r));
        const size_t a_stride = row_bytes(lora.a_type, static_cast<size_t>(lora.r));
        const float scale = lora.scale * active.weight;
        for (int i = group.begin; i < group.end; ++i) {
          table_.dequantize[int(lora.a_type)](lora.a + static_cast<size_t>(tokens[i]) * a_stride, u, lora.r);
          for (int t = 0; t < lora.r; ++t) u[t] *= scale;
          low_rank_.output(lora, w.k, u, size_t(lora.r), 1, x + size_t(i) * w.k, 0, w.k, scratch(0));
        }
        if (lora.extra) LowRank::finish({0, group, &lora, scale, 0, row_scales(active, id)}, nullptr, x, w.k, 0, w.k);
      }
    }
  }

  void add_rows(const Weight& w, const std::vector<int>& rows, float* x) override {
    const size_t stride = row_bytes(w.type, static_cast<size_t>(w.k));
    float* row = y_.get<float>(static_cast<size_t>(w.k));
    for (size_t i = 0; i < rows.size(); ++i) {
      table_.dequantize[int(w.type)](w.data + static_cast<size_t>(rows[i]) * stride, row, w.k);
      table_.add(x + i * static_cast<size_t>(w.k), row, w.k);
    }
  }

  void norm(const Config& c, const float* x, const NormWeight& w, int m, int n, float* out) override {
    for_rows(m, [&](int i) { norm_row(c, x + size_t(i) * n, w, n, out + size_t(i) * n); });
  }

  void norm_add(const Config& c, float* y, const NormWeight& w, int m, int n, float* x) override {
    for_rows(m, [&](int i) {
      norm_row(c, y + size_t(i) * n, w, n, y + size_t(i) * n);
      table_.add(x + size_t(i) * n, y + size_t(i) * n, n);
    });
  }

  void expect(const Weight& w) override { expected_ = &w; }
  void linear(const std::vector<Linear>& linears, const float* x, int m, const std::vector<RowGroup>& groups) override {
    if (observer_) observer_(linears, x, m);
    const int k = linears[0].weight->k;
    find_spans(linears, groups, m);
    const int ldu = low_rank_.plan(linears, groups, pool_.size());
    const std::vector<LowRank::Task>& tasks = low_rank_.tasks();
    float* u = tasks.empty() ? nullptr : u_.get<float>(size_t(m) * ldu);

    const bool quantised =
        std::any_of(spans_.begin(), spans_.end(), [](const Span& s) { return is_quantised(s.weight->type); });
    const int n_blocks = k / kBlock;
    int8_t* xq = quantised ? xq_.get<int8_t>(size_t(m) * k) : nullptr;
    float* xd = quantised ? xd_.get<float>(size_t(m) * n_blocks) : nullptr;
    int16_t* xs = quantised ? xs_.get<int16_t>(size_t(m) * n_blocks * 2) : nullptr;
    if (quantised)
      for_rows(m, [&](int i) {
        const size_t block = size_t(i) * n_blocks;
        table_.quantize_q8(x + size_t(i) * k, xq + size_t(i) * k, xd + block, xs + 2 * block, k);
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
    const Weight* next = std::exchange(expected_, nullptr);
    if (next && next->n == 0) next = nullptr;  // encoders have no output layer
    if (next) {
      const size_t row = row_bytes(next->type, size_t(next->k));
      pool_.expect(next->data, row * size_t(next->n), row * size_t(chunk_outputs(*next, m)));
    } else {
      pool_.expect(nullptr, 0, 0);
    }
    // Chunks are claimed in order: A·x runs beside the first of W·x, and whoever waits for it waits for a thread that
    // waits for nobody.
    const int n_tasks = int(tasks.size());
    std::atomic<int> tasks_left{n_tasks};
    pool_.run(n_tasks + int(chunks_.size()), [&](int c, int thread) {
      if (c < n_tasks) {
        low_rank_.input(tasks[size_t(c)], x, k, u, ldu, scratch(thread));
        tasks_left.fetch_sub(1, std::memory_order_release);
        return;
      }
      const Chunk& chunk = chunks_[size_t(c - n_tasks)];
      const Linear& l = linears[size_t(chunk.linear)];
      const Weight& w = *l.weight;
      const size_t n = size_t(w.n);
      const int width = chunk.n1 - chunk.n0;
      for (const Span& s : spans_) {
        if (s.linear != chunk.linear) continue;
        const Weight& used = *s.weight;
        const bool blocks = is_quantised(used.type);
        const size_t row = size_t(s.begin), block = row * size_t(n_blocks);
        table_.matmul[int(used.type)]({used.data, row_bytes(used.type, size_t(k)), k, s.end - s.begin, x + row * k,
                                       size_t(k), blocks ? xq + row * k : nullptr, blocks ? xd + block : nullptr,
                                       blocks ? xs + 2 * block : nullptr, chunk.y + row * n, n, chunk.n0, chunk.n1,
                                       scratch(thread), next_of(linears, size_t(c - n_tasks), next, m, thread)});
        if (used.bias)
          for (int i = s.begin; i < s.end; ++i) table_.add(chunk.y + i * n + chunk.n0, used.bias + chunk.n0, width);
      }
      for (int polls = 0; tasks_left.load(std::memory_order_acquire) != 0; ++polls)
        if (polls >= kPolls) std::this_thread::yield();
      for (const LowRankPart& p : low_rank_.parts()) {
        if (p.linear != chunk.linear) continue;
        low_rank_.output(*p.weight, w.n, u + size_t(p.group.begin) * ldu + p.u0, size_t(ldu),
                         p.group.end - p.group.begin, chunk.y + size_t(p.group.begin) * n, chunk.n0, chunk.n1,
                         scratch(thread));
        if (p.weight->extra) LowRank::finish(p, weight_of(w, l.id, p.group).bias, chunk.y, w.n, chunk.n0, chunk.n1);
      }
      if (l.accumulate)
        for (int i = 0; i < m; ++i) {
          if (l.scale != 1.0f) scale_row(chunk.y + i * n + chunk.n0, l.scale, width);
          table_.add(l.y + i * n + chunk.n0, chunk.y + i * n + chunk.n0, width);
        }
    });
    // What the next region looks up first; weights have streamed through the caches since it was last used.
    for (const RowGroup& group : groups)
      for (const ActiveAdapter& active : *group.adapters) active.adapter->prefetch(linears.back().id + 1);
  }

  void input_gradient(const std::vector<OutputGradient>& outputs, int m, float* dx) override {
    input_gradient_.run(outputs, m, dx, scratch_.get<uint8_t>(0));
  }

  void rope_store(const Config& c, const KvLayout& kv, int layer, const std::vector<RowPlace>& rows, const QkvRows& qkv,
                  const float* q_norm, const float* k_norm, const Rotation& rotation) override {
    for_rows(int(rows.size()), [&](int i) {
      float *q = qkv.q + size_t(i) * qkv.ldq, *k = qkv.k + size_t(i) * qkv.ldkv;
      const size_t angles = size_t(i) * size_t(c.n_rot / 2);
      norm_rope(c, q, c.n_head, q_norm, rotation, angles);
      norm_rope(c, k, c.n_head_kv, k_norm, rotation, angles);
      attention_.store(kv, layer, rows[size_t(i)], k, qkv.v + size_t(i) * qkv.ldkv);
    });
  }

  void attention(const Config& c, const KvLayout& kv, int layer, const std::vector<RowPlace>& rows, const float* q,
                 size_t ldq, float* out) override {
    attention_.run(c, kv, layer, rows, q, ldq, out);
  }

  void activate(const Config& c, const float* gate, const float* up, size_t ld, int m, int n, float* out) override {
    const auto kernel = c.activation == Activation::silu        ? table_.swiglu
                        : c.activation == Activation::gelu_tanh ? table_.gelu_tanh
                                                                : table_.gelu_erf;
    for_rows(m,
             [&](int i) { kernel(gate + size_t(i) * ld, up ? up + size_t(i) * ld : nullptr, out + size_t(i) * n, n); });
  }

  void take_rows(const float* x, const std::vector<int>& rows, int n, float* out) override {
    for (size_t i = 0; i < rows.size(); ++i)
      std::memmove(out + i * size_t(n), x + size_t(rows[i]) * size_t(n), size_t(n) * sizeof(float));
  }

  void scale(float* x, float by, int m, int n) override {
    for_rows(m, [&](int i) { scale_row(x + size_t(i) * n, by, n); });
  }

  void soft_cap(float* x, float cap, int m, int n) override {
    for_rows(m, [&](int i) { table_.soft_cap(x + size_t(i) * n, 1.0f, cap, n); });
  }
  std::vector<Likeliest> likeliest(const float*, int, int) override { return {}; }

 private:
  struct Chunk {
    int linear, n0, n1;
    float* y;
  };

  static void scale_row(float* x, float by, int n) {
    for (int i = 0; i < n; ++i) x[i] *= by;
  }

  void norm_row(const Config& c, const float* x, const NormWeight& w, int n, float* out) const {
    if (c.norm == Norm::rms) {
      table_.rms_norm(x, w.w, c.norm_eps, n, out);
    } else {
      table_.layer_norm(x, w.w, w.b, c.norm_eps, n, out);
    }
  }

  // One row's heads; its angles begin at `angles`.
  void norm_rope(const Config& c, float* x, int heads, const float* w, const Rotation& rotation, size_t angles) const {
    const int d = c.head_dim;
    if (c.qk_norm == QkNorm::whole) norm_row(c, x, {w}, heads * d, x);
    for (int h = 0; h < heads; ++h, x += d) {
      if (c.qk_norm == QkNorm::shared) norm_row(c, x, {w}, d, x);
      if (c.qk_norm == QkNorm::per_head) norm_row(c, x, {w + h * d}, d, x);
      if (rotation.cos) table_.rope(x, rotation.cos + angles, rotation.sin + angles, c.n_rot, c.rope_interleaved);
    }
  }

  // Outputs per chunk: each thread gets as many chunks of a linear as any other.
  int chunk_outputs(const Weight& w, int m) const {
    const size_t threads = size_t(pool_.size()), n = size_t(w.n), bytes = n * row_bytes(w.type, size_t(w.k));
    const size_t round = threads * kChunkBytes * kChunkRows / size_t(std::max(m, kChunkRows));
    const size_t chunks = threads * ((bytes + round - 1) / round), whole = m < kManyRows ? kChunkOutputs : kManyOutputs;
    return int(((n + chunks - 1) / chunks + whole - 1) / whole * whole);
  }

  // Where the weights begin that a thread is likely to read after a chunk's: with the others as fast it claims the
  // chunk that is so many threads on, and after its last one begins the next region's weight, if that is known.
  const uint8_t* next_of(const std::vector<Linear>& linears, size_t chunk, const Weight* after, int m,
                         int thread) const {
    const size_t next = chunk + size_t(pool_.size());
    const bool here = next < chunks_.size();
    const Weight* w = here ? linears[size_t(chunks_[next].linear)].weight : after;
    if (!w) return nullptr;
    const size_t row = here ? size_t(chunks_[next].n0) : size_t(thread * chunk_outputs(*w, m));
    return w->data + row * row_bytes(w->type, size_t(w->k));
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

  // Fills spans_: one for each linear where no adapter brings a weight of its own.
  void find_spans(const std::vector<Linear>& linears, const std::vector<RowGroup>& groups, int m) {
    spans_.clear();
    const bool wholes = std::any_of(groups.begin(), groups.end(), [](const RowGroup& group) {
      return std::any_of(group.adapters->begin(), group.adapters->end(),
                         [](const ActiveAdapter& active) { return active.adapter->has_wholes(); });
    });
    for (size_t l = 0; l < linears.size(); ++l) {
      if (!wholes) {
        spans_.push_back({int(l), 0, m, linears[l].weight});
        continue;
      }
      for (const RowGroup& group : groups) {
        const Weight* own = &weight_of(*linears[l].weight, linears[l].id, group);
        if (group.begin > 0 && spans_.back().weight == own) {
          spans_.back().end = group.end;
        } else {
          spans_.push_back({int(l), group.begin, group.end, own});
        }
      }
    }
  }

  void* scratch(int thread) { return scratch_.get<uint8_t>(0) + size_t(thread) * kScratchBytes; }

  const Table& table_;
  ThreadPool pool_;
  Attention attention_;
  LowRank low_rank_;
  InputGradient input_gradient_;
  Buffer scratch_, xq_, xd_, xs_, u_, y_;
  std::vector<Chunk> chunks_;
  std::vector<Span> spans_;
  const Weight* expected_ = nullptr;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int threads, const std::vector<int>& cpus) {
  return std::make_unique<CpuBackend>(threads, cpus);
}

}  // namespace lora_edge
