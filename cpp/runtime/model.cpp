#include "runtime/model.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/error.h"
#include "kernels/kernels.h"

namespace lora_edge {
namespace {

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += concat(i ? ", " : "", shape[i]);
  return out + "]";
}

DType choose_kv_type(const std::string& name, DType weights) {
  if (name == "f32") return DType::f32;
  if (name == "f16") return DType::f16;
  if (name == "q8_0") return DType::q8_0;
  if (name != "auto") fail_input("[model] kv_type '", name, "' is unknown; auto, f32, f16 and q8_0 are possible");
  return weights == DType::f32 ? DType::f32 : DType::f16;
}

DType layer_type(const GgufFile& file) {
  const GgufTensor* t = file.find_tensor("blk.0.attn_q.weight");
  return t ? file.dtype(*t) : DType::f16;
}

// Bytes of an adapter that a pass takes into memory of its own, in a millisecond or so.
constexpr size_t kSettleBytes = 1 << 20;
constexpr size_t kKvAllowance = 16 << 20;  // bytes of a page that any file may ask for

}  // namespace

Sequence::Sequence(std::shared_ptr<Model> model, AdapterSet adapters)
    : model_(std::move(model)), adapters_(std::move(adapters)), kv_(model_->kv_, model_->kv_bytes()) {}

void Sequence::set_adapters(AdapterSet adapters) {
  std::lock_guard<std::mutex> lock(model_->mutex_);
  adapters_.swap(adapters);
  if (kept_logits() > 1) logits_.erase(logits_.begin(), logits_.end() - model_->config().n_vocab);
}

std::shared_ptr<Sequence> Sequence::fork() const {
  std::lock_guard<std::mutex> lock(model_->mutex_);
  return std::shared_ptr<Sequence>(new Sequence(*this));
}

void Sequence::truncate(int n) {
  std::lock_guard<std::mutex> lock(model_->mutex_);
  if (n < 0 || n > length()) fail_input("[sequence] can't truncate ", length(), " positions to ", n);
  if (n == length()) return;
  const int left = std::max(0, kept_logits() - (length() - n));
  kv_.truncate(n);
  logits_.resize(static_cast<size_t>(left) * static_cast<size_t>(model_->config().n_vocab));
}

int Sequence::kept_logits() const {
  return static_cast<int>(logits_.size() / static_cast<size_t>(model_->config().n_vocab));
}

const float* Sequence::logits(int n) const {
  const int row = n - 1 - (length() - kept_logits());
  if (row < 0 || row >= kept_logits()) return nullptr;
  return logits_.data() + static_cast<size_t>(row) * static_cast<size_t>(model_->config().n_vocab);
}

Model::Model(const FileSource& source, const ModelOptions& options)
    : file_(source),
      config_(read_config(file_)),
      n_ctx_(options.n_ctx > 0 ? options.n_ctx : config_.n_ctx_train),
      kv_(config_, choose_kv_type(options.kv_type, layer_type(file_))) {
  if (options.n_ctx < 0) fail_input("[model] n_ctx is ", options.n_ctx, ", a negative number");
  if (options.threads < 1 || options.threads > 1024)
    fail_input("[model] threads is ", options.threads, ", not from 1 to 1024");
  if (options.n_ctx > kMaxContext) fail_input("[model] n_ctx is ", options.n_ctx, ", more than ", kMaxContext);
  if (config_.window > 0 && n_ctx_ > config_.window)
    fail_input("[model] n_ctx is ", n_ctx_, ", but '", file_.path(), "' has attention in a sliding window of ",
               config_.window, " positions: longer contexts are not supported");
  if (kv_.type == DType::q8_0 && config_.head_dim % kBlock != 0)
    fail_input("[model] kv_type 'q8_0' needs heads of a multiple of ", kBlock, " elements; those of '", file_.path(),
               "' have ", config_.head_dim, ": use f16");
  load_layers();
  check_kv_size();
  backend_ = make_cpu_backend(options.threads, options.cpus);
}

const float* Model::vector(const std::string& name, int n, bool required) {
  const GgufTensor* t = file_.find_tensor(name);
  if (!t && !required) return nullptr;
  if (!t) fail_input("[model] tensor '", name, "' is missing");
  if (t->type != 0) fail_input("[model] tensor '", name, "' has type ", t->type_name, "; it must be F32");
  if (t->shape != std::vector<uint64_t>{static_cast<uint64_t>(n)})
    fail_input("[model] tensor '", name, "' has shape ", shape_text(t->shape), "; the model needs [", n, "]");
  used_.push_back(name);
  return reinterpret_cast<const float*>(t->data);
}

Weight Model::matrix(const std::string& name, int n, int k) {
  const GgufTensor* t = file_.find_tensor(name);
  if (!t) fail_input("[model] tensor '", name, "' is missing");
  if (t->shape != std::vector<uint64_t>{static_cast<uint64_t>(n), static_cast<uint64_t>(k)})
    fail_input("[model] tensor '", name, "' has shape ", shape_text(t->shape), "; the model needs [", n, ", ", k, "]");
  used_.push_back(name);
  Weight w{file_.dtype(*t), t->data, n, k, nullptr};
  const std::string stem = name.substr(0, name.size() - std::string("weight").size());
  w.bias = vector(stem + "bias", n, false);
  return w;
}

void Model::load_layers() {
  const Config& c = config_;
  if (static_cast<uint64_t>(c.n_layer) > file_.tensors().size())  // before anything is made for each layer
    fail_input("[model] ", c.n_layer, " layers, but the file holds ", file_.tensors().size(), " tensors");
  embedding_ = matrix("token_embd.weight", c.n_vocab, c.n_embd);
  output_ = file_.find_tensor("output.weight") ? matrix("output.weight", c.n_vocab, c.n_embd) : embedding_;
  output_norm_ = vector("output_norm.weight", c.n_embd, true);
  const bool qk_norm = c.arch == "qwen3";
  const int n[kSlots] = {c.q_dim(), c.kv_dim(), c.kv_dim(), c.n_embd, c.n_ff, c.n_ff, c.n_embd};
  const int k[kSlots] = {c.n_embd, c.n_embd, c.n_embd, c.q_dim(), c.n_embd, c.n_embd, c.n_ff};
  for (int i = 0; i < c.n_layer; ++i) {
    const std::string prefix = concat("blk.", i, ".");
    Layer layer{};
    layer.attn_norm = vector(prefix + "attn_norm.weight", c.n_embd, true);
    layer.ffn_norm = vector(prefix + "ffn_norm.weight", c.n_embd, true);
    layer.q_norm = qk_norm ? vector(prefix + "attn_q_norm.weight", c.head_dim, true) : nullptr;
    layer.k_norm = qk_norm ? vector(prefix + "attn_k_norm.weight", c.head_dim, true) : nullptr;
    for (int s = 0; s < kSlots; ++s)
      layer.linears[s] = matrix(linear_name(c.n_layer, linear_id(i, static_cast<Slot>(s))), n[s], k[s]);
    layers_.push_back(layer);
  }
  for (int id = 0; id < linear_count(c); ++id) linear_ids_[linear_name(c.n_layer, id)] = id;
  used_.push_back("rope_freqs.weight");
  const std::set<std::string> used(used_.begin(), used_.end());
  for (const GgufTensor& t : file_.tensors())
    if (!used.count(t.name))
      fail_input("[model] tensor '", clip(t.name), "' has no place in architecture '", c.arch,
                 "': leaving it out would change the model");
  used_.clear();
}

// A model whose keys and values dwarf its weights is a lie: each position's take 2 · n_head_kv · head_dim numbers a
// layer, the weights that make them n_embd times as many.
void Model::check_kv_size() const {
  if (kv_.page_bytes > 8 * file_.size() + kKvAllowance)
    fail_input("[model] keys and values of ", kv_.page_bytes, " bytes per ", kPagePositions,
               " positions can't belong to '", file_.path(), "' of ", file_.size(), " bytes: its metadata lies");
}

const Weight& Model::weight(int id) const {
  if (id == embedding_id(config_)) return embedding_;
  if (id == output_id(config_)) return output_;
  return layers_[static_cast<size_t>(id / kSlots)].linears[id % kSlots];
}

int Model::find_linear(const std::string& tensor) const {
  const auto found = linear_ids_.find(tensor);
  return found == linear_ids_.end() ? -1 : found->second;
}

size_t Model::buffer_bytes() const {
  size_t n = backend_->n_bytes();
  for (const auto* b : {&x_, &h_, &q_, &k_, &v_, &gate_, &up_, &cos_, &sin_, &logits_})
    n += b->capacity() * sizeof(float);
  return n;
}

const char* Model::larger_context() const {
  return n_ctx_ == config_.window ? "" : ", or load the model with a larger n_ctx (-c)";
}

void Model::check(const std::vector<Feed>& feeds) const {
  std::set<const Sequence*> seen;
  for (const Feed& feed : feeds) {
    if (feed.sequence->model_.get() != this) fail_input("[model] a sequence belongs to another model");
    if (!seen.insert(feed.sequence).second) fail_input("[model] a sequence appears twice in one batch");
    if (feed.tokens.empty()) fail_input("[model] no tokens to run: the prompt is empty");
    if (feed.n_logits < 1 || static_cast<size_t>(feed.n_logits) > feed.tokens.size())
      fail_input("[model] logits after ", feed.n_logits, " of ", feed.tokens.size(), " new tokens can't be kept");
    const size_t total = static_cast<size_t>(feed.sequence->length()) + feed.tokens.size();
    if (total > static_cast<size_t>(n_ctx_))
      fail_input("[model] ", feed.sequence->length(), " positions + ", feed.tokens.size(), " new tokens = ", total,
                 " exceed the context of ", n_ctx_, ": shorten the prompt", larger_context());
    for (int token : feed.tokens)
      if (token < 0 || token >= config_.n_vocab)
        fail_input("[model] token id ", token, " is outside the vocabulary of ", config_.n_vocab);
  }
}

void Model::forward(const std::vector<Feed>& feeds, float* all_logits, const std::function<bool()>& poll) {
  std::lock_guard<std::mutex> lock(mutex_);
  check(feeds);
  std::vector<int> before;
  for (const Feed& feed : feeds) before.push_back(feed.sequence->length());
  try {
    std::vector<Row> rows;
    for (size_t f = 0; f < feeds.size(); ++f) {
      const int n = static_cast<int>(feeds[f].tokens.size());
      for (int i = 0; i < n; ++i) {
        rows.push_back({f, feeds[f].tokens[static_cast<size_t>(i)], before[f] + i, i == 0, i >= n - feeds[f].n_logits});
        if (rows.size() < kMaxRows && !(i + 1 == n && f + 1 == feeds.size())) continue;
        run_rows(feeds, rows, all_logits, poll);
        if (all_logits) all_logits += rows.size() * static_cast<size_t>(config_.n_vocab);
        rows.clear();
      }
    }
    size_t settled = 0;
    for (const Feed& feed : feeds)
      for (const ActiveAdapter& active : feed.sequence->adapters_)
        if (settled < kSettleBytes) settled += active.adapter->settle(kSettleBytes - settled);
  } catch (...) {
    for (size_t f = 0; f < feeds.size(); ++f) {
      Sequence& s = *feeds[f].sequence;
      if (s.length() == before[f]) continue;
      s.kv_.truncate(before[f]);
      s.logits_.clear();
    }
    throw;
  }
}

void Model::rotations(const std::vector<Row>& rows) {
  const size_t half = config_.inv_freq.size();
  cos_.resize(rows.size() * half);
  sin_.resize(rows.size() * half);
  for (size_t i = 0; i < rows.size(); ++i)
    for (size_t j = 0; j < half; ++j) {
      const double angle =
          static_cast<float>(rows[i].position) * config_.inv_freq[j];  // rounded to float32, see config.cpp
      cos_[i * half + j] = static_cast<float>(std::cos(angle));
      sin_[i * half + j] = static_cast<float>(std::sin(angle));
    }
}

void Model::run_rows(const std::vector<Feed>& feeds, const std::vector<Row>& rows, float* all_logits,
                     const std::function<bool()>& poll) {
  const Config& c = config_;
  const size_t m = rows.size();
  const int rows_n = static_cast<int>(m);
  std::vector<int> tokens, new_positions(feeds.size());
  std::vector<RowGroup> groups;
  std::vector<RowPlace> places;
  for (size_t i = 0; i < m; ++i) {
    Sequence& s = *feeds[rows[i].feed].sequence;
    tokens.push_back(rows[i].token);
    places.push_back({&s.kv_, rows[i].position});
    if (i == 0 || rows[i].feed != rows[i - 1].feed) groups.push_back({int(i), int(i), &s.adapters_});
    groups.back().end = static_cast<int>(i) + 1;
    ++new_positions[rows[i].feed];
  }
  for (size_t f = 0; f < feeds.size(); ++f)
    if (new_positions[f]) feeds[f].sequence->kv_.reserve(new_positions[f]);

  x_.resize(m * size_t(c.n_embd));
  h_.resize(m * size_t(std::max(c.n_embd, c.q_dim())));
  q_.resize(m * size_t(c.q_dim()));
  k_.resize(m * size_t(c.kv_dim()));
  v_.resize(m * size_t(c.kv_dim()));
  gate_.resize(m * size_t(c.n_ff));
  up_.resize(m * size_t(c.n_ff));
  rotations(rows);

  Backend& b = *backend_;
  float *x = x_.data(), *h = h_.data();
  b.embed(embedding_, embedding_id(c), tokens.data(), groups, rows_n, x);
  for (int i = 0; i < c.n_layer; ++i) {
    if (poll && poll()) throw Cancelled();
    const Layer& layer = layers_[static_cast<size_t>(i)];
    const Weight* w = layer.linears;
    const auto id = [i](Slot slot) { return linear_id(i, slot); };
    b.rms_norm(x, layer.attn_norm, c.rms_eps, rows_n, c.n_embd, h);
    b.linear(
        {{&w[kQ], id(kQ), q_.data(), false}, {&w[kK], id(kK), k_.data(), false}, {&w[kV], id(kV), v_.data(), false}}, h,
        rows_n, groups);
    b.rope_store(c, kv_, i, places, q_.data(), k_.data(), v_.data(), layer.q_norm, layer.k_norm, cos_.data(),
                 sin_.data());
    b.attention(c, kv_, i, places, q_.data(), h);
    b.linear({{&w[kO], id(kO), x, true}}, h, rows_n, groups);
    b.rms_norm(x, layer.ffn_norm, c.rms_eps, rows_n, c.n_embd, h);
    b.linear({{&w[kGate], id(kGate), gate_.data(), false}, {&w[kUp], id(kUp), up_.data(), false}}, h, rows_n, groups);
    b.swiglu(gate_.data(), up_.data(), rows_n, c.n_ff);
    b.linear({{&w[kDown], id(kDown), x, true}}, gate_.data(), rows_n, groups);
  }
  for (size_t f = 0; f < feeds.size(); ++f)
    if (new_positions[f]) feeds[f].sequence->kv_.advance(new_positions[f]);
  for (const Row& row : rows)
    if (row.first) feeds[row.feed].sequence->logits_.clear();

  // Only the rows whose logits are wanted go through the output layer: they are moved to the front of x.
  std::vector<size_t> wanted;
  std::vector<RowGroup> wanted_groups;
  for (size_t i = 0; i < m; ++i) {
    if (!all_logits && !rows[i].kept) continue;
    const int at = static_cast<int>(wanted.size());
    if (wanted.empty() || rows[i].feed != rows[wanted.back()].feed)
      wanted_groups.push_back({at, at, &feeds[rows[i].feed].sequence->adapters_});
    wanted_groups.back().end = at + 1;
    std::copy_n(x + i * size_t(c.n_embd), c.n_embd, x + wanted.size() * size_t(c.n_embd));
    wanted.push_back(i);
  }
  if (wanted.empty()) return;
  const size_t n_vocab = static_cast<size_t>(c.n_vocab);
  if (!all_logits) logits_.resize(wanted.size() * n_vocab);
  float* logits = all_logits ? all_logits : logits_.data();
  b.rms_norm(x, output_norm_, c.rms_eps, int(wanted.size()), c.n_embd, h);
  b.linear({{&output_, output_id(c), logits, false}}, h, int(wanted.size()), wanted_groups);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const Row& row = rows[wanted[i]];
    std::vector<float>& kept = feeds[row.feed].sequence->logits_;
    if (row.kept) kept.insert(kept.end(), logits + i * n_vocab, logits + (i + 1) * n_vocab);
  }
}

}  // namespace lora_edge
