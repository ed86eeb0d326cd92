// The backend of NVIDIA's GPUs: operations become launches on one stream.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/backend.h"
#include "backend/cuda/pass_tables.h"
#include "backend/low_rank.h"
#include "base/error.h"
#include "kernels/kernels.h"

namespace lora_edge {
namespace {

using namespace cuda;

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kBlockOutputs = kThreads / 8;  // of matvec from blocks; from floats each warp makes one
constexpr int kMatvecRows = 8;
constexpr int kTileOutputs = 64, kTileRows = 32, kPlainMmaRows = 64;  // of matmul
constexpr int kSortThreads = 512;
constexpr int kLikeliest = 128;  // tokens of a row: top-k's usual 40 beside 64 that a penalty can take away

int blocks_for(size_t n, int each) { return int((n + size_t(each) - 1) / size_t(each)); }

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(int index)
      : context_(std::make_shared<Context>(index)),
        weights_(context_),
        tables_(context_),
        xq_(context_),
        xd_(context_),
        u_(context_),
        states_(context_),
        tokens_(context_),
        keys_(context_),
        fewer_keys_(context_),
        likeliest_(context_) {}

  int threads() const override { return 1; }
  size_t n_bytes() const override {
    size_t n = weights_.n_bytes() + tables_.n_bytes();
    for (const DeviceBuffer* b : {&xq_, &xd_, &u_, &states_, &tokens_, &keys_, &fewer_keys_, &likeliest_})
      n += b->n_bytes();
    return n;
  }

  bool is_host() const override { return false; }
  void* allocate(size_t n_bytes) override {
    void* data = context_->allocate(n_bytes);
    context_->fill_zeros(data, n_bytes);
    return data;
  }
  void release(void* data) override { context_->release(data); }
  void copy(void* to, const void* from, size_t n_bytes) override { context_->copy_within(to, from, n_bytes); }
  void write(void* to, const void* from, size_t n_bytes) override { context_->copy_in(to, from, n_bytes); }
  void read(void* to, const void* from, size_t n_bytes) override { context_->copy_out(to, from, n_bytes); }

  void keep(const Weight& w) override { weights_.matrix(w); }
  void begin(const Config& c, const std::vector<RowPlace>& places, const std::vector<RowGroup>& groups) override {
    config_ = &c;
    tables_.begin(c, places, groups);
  }

  void embed(const Weight& w, int id, const int* tokens, const std::vector<RowGroup>& groups, int m,
             float* x) override {
    int* ids = tokens_.get<int>(size_t(m));
    context_->copy_in(ids, tokens, size_t(m) * sizeof(int));
    const PartTable table = tables_.parts(*config_, groups, id);
    for (const Rows& rows : rows_of(w, id, groups)) {
      EmbedArgs args{};
      args.w = rows.matrix;
      args.tokens = ids + rows.begin;
      args.ranges = table.ranges ? table.of(id) + rows.begin : nullptr;
      args.parts = table.parts;
      args.x = x + size_t(rows.begin) * size_t(w.k);
      context_->launch("embed", args, {rows.end - rows.begin});
    }
  }

  void add_rows(const Weight& w, const std::vector<int>& rows, float* x) override {
    int* ids = tokens_.get<int>(rows.size());
    context_->copy_in(ids, rows.data(), rows.size() * sizeof(int));
    EmbedArgs args{};
    args.w = weights_.matrix(w);
    args.tokens = ids;
    args.x = x;
    args.add = 1;
    context_->launch("embed", args, {int(rows.size())});
  }

  void norm(const Config& c, const float* x, const NormWeight& w, int m, int n, float* out) override {
    launch_norm(c, x, w, m, n, out, nullptr);
  }
  void norm_add(const Config& c, float* y, const NormWeight& w, int m, int n, float* x) override {
    launch_norm(c, y, w, m, n, y, x);
  }

  void expect(const Weight&) override {}
  void linear(const std::vector<Linear>& linears, const float* x, int m, const std::vector<RowGroup>& groups) override {
    if (observer_) fail_input("[cuda] observing the inputs of linears needs device='cpu'");
    const size_t k = size_t(linears[0].weight->k), n_blocks = k / kBlock;
    LinearArgs args{};
    args.n_linears = int(linears.size());
    args.k = int(k);
    PartTable tables[kMostLinears];
    std::vector<std::vector<Rows>> rows;
    bool quantised = false, whole = false;
    for (size_t l = 0; l < linears.size(); ++l) {
      tables[l] = tables_.parts(*config_, groups, linears[l].id);
      rows.push_back(rows_of(*linears[l].weight, linears[l].id, groups));
      whole |= rows.back().size() > 1;
      for (const Rows& r : rows.back()) quantised |= r.matrix.kind >= kQ8;
      args.ldu = std::max(args.ldu, tables[l].ldu);
      if (tables[l].parts) args.parts = tables[l].parts;
    }
    const size_t u_size = size_t(m) * size_t(args.ldu);
    float* u = u_.get<float>(linears.size() * u_size);
    for (size_t l = 0; l < linears.size(); ++l)
      args.linears[l] = {rows[l][0].matrix,           linears[l].y,  linears[l].accumulate, linears[l].scale,
                         tables[l].of(linears[l].id), u + l * u_size};
    args.x = x;
    args.m = m;
    InputArgs inputs{};
    if (quantised) {
      inputs.quantize = {x, xq_.get<signed char>(size_t(m) * k), xd_.get<float>(size_t(m) * n_blocks),
                         int(size_t(m) * n_blocks)};
      inputs.quantize_blocks = blocks_for(size_t(m) * n_blocks, kWarps);
      args.xq = inputs.quantize.q;
      args.xd = inputs.quantize.d;
    }
    inputs.linear = args;
    const bool many = m > kMatvecRows;
    const int row_tiles = many ? blocks_for(size_t(m), kManyRows) : m;
    const int rank_tiles = many ? blocks_for(size_t(args.ldu), kManyRanks) : args.ldu;
    const int blocks = inputs.quantize_blocks + row_tiles * rank_tiles * args.n_linears;
    if (blocks > 0) context_->launch(many ? "inputs_many" : "inputs", inputs, {blocks});
    if (!whole) {
      launch(args);
      return;
    }
    for (size_t l = 0; l < linears.size(); ++l)
      for (const Rows& r : rows[l]) {
        const size_t begin = size_t(r.begin);
        LinearArgs one = args;
        one.n_linears = 1;
        one.m = r.end - r.begin;
        one.linears[0] = args.linears[l];
        one.linears[0].w = r.matrix;
        one.linears[0].y += begin * size_t(r.matrix.n);
        one.linears[0].u += begin * size_t(args.ldu);
        if (one.linears[0].ranges) one.linears[0].ranges += begin;
        one.x += begin * k;
        if (one.xq) one.xq += begin * k;
        if (one.xd) one.xd += begin * n_blocks;
        launch(one);
      }
  }

  void input_gradient(const std::vector<OutputGradient>&, int, float*) override {
    fail_input("[cuda] gradients of weights in blocks need device='cpu'");
  }

  void rope_store(const Config& c, const KvLayout& kv, int layer, const std::vector<RowPlace>& rows, const QkvRows& qkv,
                  const float* q_norm, const float* k_norm, const Rotation& rotation) override {
    const size_t d = size_t(c.head_dim);
    const auto floats = [&](const float* w, int heads) {
      const size_t n = c.qk_norm == QkNorm::shared ? d : d * size_t(heads);
      return weights_.floats(w, n);
    };
    RopeArgs args{};
    args.q = qkv.q;
    args.k = qkv.k;
    args.v = qkv.v;
    args.cos = rotation.cos;
    args.sin = rotation.sin;
    args.q_norm = floats(q_norm, c.n_head);
    args.k_norm = floats(k_norm, c.n_head_kv);
    args.places = tables_.places();
    args.cache = cache_of(kv, layer);
    args.eps = c.norm_eps;
    args.ldq = int(qkv.ldq);
    args.ldkv = int(qkv.ldkv);
    args.n_head = c.n_head;
    args.n_rot = c.n_rot;
    args.interleaved = c.rope_interleaved;
    args.qk_norm = int(c.qk_norm);
    args.rms = c.norm == Norm::rms;
    context_->launch("rope_store", args, {int(rows.size())});
  }

  void attention(const Config& c, const KvLayout& kv, int layer, const std::vector<RowPlace>&, const float* q,
                 size_t ldq, float* out) override {
    AttentionArgs args{};
    args.q = q;
    args.out = out;
    args.blocks = tables_.blocks();
    args.places = tables_.places();
    args.cache = cache_of(kv, layer);
    args.scale = c.attention_scale;
    args.cap = c.attention_cap;
    args.ldq = int(ldq);
    args.n_head = c.n_head;
    args.window = c.layers[size_t(layer)].window;
    args.n_spans = tables_.n_spans();
    args.most_queries = tables_.most_queries();
    const size_t queries = size_t(args.most_queries), d = size_t(c.head_dim);
    const Grid grid{tables_.n_blocks(), c.n_head_kv, args.n_spans};
    if (args.n_spans > 1)
      args.states = states_.get<float>(size_t(grid.x) * size_t(grid.y) * size_t(grid.z) * queries * (d + 2));
    context_->launch("attention", args, grid, kThreads, queries * (2 * d + kPagePositions + 2) * sizeof(float));
    if (args.n_spans > 1) context_->launch("merge_spans", args, {grid.x, grid.y});
  }

  void activate(const Config& c, const float* gate, const float* up, size_t ld, int m, int n, float* out) override {
    const ActivateArgs args{gate, up, out, m, n, int(ld), int(c.activation)};
    context_->launch("activate", args, {blocks_for(size_t(m) * size_t(n), kThreads)});
  }

  void take_rows(const float* x, const std::vector<int>& rows, int n, float* out) override {
    if (x == out && rows.back() == int(rows.size()) - 1) return;  // they are where they belong
    int* ids = tokens_.get<int>(rows.size());
    context_->copy_in(ids, rows.data(), rows.size() * sizeof(int));
    context_->launch("rows", RowsArgs{x, out, ids, 0.0f, int(rows.size()), n, 2}, {1});
  }
  void scale(float* x, float by, int m, int n) override {
    context_->launch("rows", RowsArgs{x, x, nullptr, by, m, n, 0}, {blocks_for(size_t(m) * size_t(n), kThreads)});
  }
  void soft_cap(float* x, float cap, int m, int n) override {
    context_->launch("rows", RowsArgs{x, x, nullptr, cap, m, n, 1}, {blocks_for(size_t(m) * size_t(n), kThreads)});
  }
  // Stretches of each row, then of what was kept of these, until one has all. What comes back lies together: the rows'
  // keys, then the numbers of their stretches.
  std::vector<Likeliest> likeliest(const float* logits, int m, int n) override {
    const int n_stretches = blocks_for(size_t(n), kStretch), k = std::min(n, kLikeliest);
    const size_t rows = size_t(m), n_keys = rows * size_t(k) * sizeof(uint64_t);
    std::vector<char> found(n_keys + rows * size_t(n_stretches) * sizeof(Stretch));
    char* to = likeliest_.get<char>(found.size());
    LikeliestArgs args{logits, nullptr, nullptr, reinterpret_cast<Stretch*>(to + n_keys), n, k};
    DeviceBuffer *now = &keys_, *next = &fewer_keys_;
    for (int stretches = n_stretches;; stretches = blocks_for(size_t(args.n), kStretch)) {
      args.out = stretches == 1 ? reinterpret_cast<unsigned long long*>(to)
                                : now->get<unsigned long long>(rows * size_t(stretches) * size_t(k));
      context_->launch("likeliest", args, {stretches, m}, kSortThreads);
      if (stretches == 1) break;
      args.logits = nullptr;
      args.keys = args.out;
      args.n = stretches * k;
      std::swap(now, next);
    }
    context_->copy_out(found.data(), to, found.size());
    std::vector<Likeliest> out;
    for (size_t row = 0; row < rows; ++row)
      out.push_back(likeliest_of(&found[row * size_t(k) * sizeof(uint64_t)], k,
                                 &found[n_keys + row * size_t(n_stretches) * sizeof(Stretch)], n_stretches));
    return out;
  }

 private:
  static Likeliest likeliest_of(const char* keys, int k, const char* numbers, int n_stretches) {
    Likeliest out;
    for (int i = 0; i < k; ++i) {
      uint64_t key;
      std::memcpy(&key, keys + size_t(i) * sizeof(key), sizeof(key));
      const auto ordered = uint32_t(key >> 32);
      out.candidates.push_back({bits_to_f32(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered), int(~uint32_t(key))});
    }
    double total = 0;
    const double most = double(out.candidates[0].logit);
    for (int i = 0; i < n_stretches; ++i) {
      Stretch s;
      std::memcpy(&s, numbers + size_t(i) * sizeof(s), sizeof(s));
      out.finite &= std::isfinite(s.most) && std::isfinite(s.least);
      total += double(s.total) * std::exp(double(s.most) - most);
    }
    out.log_total = most + std::log(total);
    return out;
  }

  // Rows [begin, end) that a linear runs with one weight.
  struct Rows {
    int begin, end;
    Matrix matrix;
  };

  std::vector<Rows> rows_of(const Weight& w, int id, const std::vector<RowGroup>& groups) {
    std::vector<Rows> found;
    const Matrix base = weights_.matrix(w);
    for (const RowGroup& group : groups) {
      Matrix used = base;
      for (const ActiveAdapter& active : *group.adapters) {
        if (!active.adapter->has_wholes() || active.weight == 0.0f) continue;
        const Matrix* whole = tables_.copy_of(*active.adapter, linear_count(*config_)).whole(id);
        if (whole) used = *whole;
      }
      if (!found.empty() && found.back().matrix.q == used.q) {
        found.back().end = group.end;
      } else {
        found.push_back({group.begin, group.end, used});
      }
    }
    return found;
  }

  static CacheLayout cache_of(const KvLayout& kv, int layer) {
    const size_t head = kv.offset(0, 0, true) - kv.offset(0, 0, false);
    return {static_cast<long long>(head), static_cast<long long>(kv.offset(layer, 0, false)), kv.type == DType::f16,
            kv.n_head_kv, kv.head_dim};
  }

  void launch_norm(const Config& c, const float* x, const NormWeight& w, int m, int n, float* out, float* add_to) {
    const NormArgs args{x,
                        weights_.floats(w.w, size_t(n)),
                        weights_.floats(w.b, size_t(n)),
                        out,
                        add_to,
                        c.norm_eps,
                        n,
                        c.norm == Norm::rms};
    context_->launch("norm", args, {m});
  }

  // From so many rows on tiles of matmul are the faster way; both make the same bits.
  void launch(const LinearArgs& args) {
    const LinearOne* end = args.linears + args.n_linears;
    const bool blocks = std::all_of(args.linears, end, [](const LinearOne& l) { return l.w.kind >= kQ8; });
    if (args.m <= kMatvecRows || !blocks) {
      launch_matvec(args);
      return;
    }
    int tiles = 0;
    for (const LinearOne* l = args.linears; l != end; ++l) tiles += blocks_for(size_t(l->w.n), kTileOutputs);
    const bool plain = std::all_of(args.linears, end, [](const LinearOne& l) { return is_plain(l.w.kind); });
    const bool mma = context_->has("matmul_mma");
    context_->launch(plain ? (mma ? "matmul_mma" : "matmul_dot4") : (mma ? "matmul_halves_mma" : "matmul_halves_dot4"),
                     args, {tiles, blocks_for(size_t(args.m), plain && mma ? kPlainMmaRows : kTileRows)});
  }

  void launch_matvec(const LinearArgs& args) {
    int blocks = 0;
    for (int l = 0; l < args.n_linears; ++l) {
      const Matrix& w = args.linears[l].w;
      blocks += blocks_for(size_t(w.n), w.kind >= kQ8 ? kBlockOutputs : kWarps);
    }
    if (args.m == 1) {
      context_->launch("matvec_1", args, {blocks});
    } else {
      context_->launch("matvec_8", args, {blocks, blocks_for(size_t(args.m), kMatvecRows)});
    }
  }

  std::shared_ptr<Context> context_;
  Weights weights_;
  PassTables tables_;
  DeviceBuffer xq_, xd_, u_, states_, tokens_, keys_, fewer_keys_, likeliest_;
  const Config* config_ = nullptr;
};

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int index) { return std::make_unique<CudaBackend>(index); }

}  // namespace lora_edge
