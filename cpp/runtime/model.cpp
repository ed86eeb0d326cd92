#include "runtime/model.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "kernels/kernels.h"

namespace lora_edge {
namespace {

DType choose_kv_type(const std::string& name, DType weights) {
  if (name == "f32") return DType::f32;
  if (name == "f16") return DType::f16;
  if (name == "q8_0") return DType::q8_0;
  if (name != "auto") fail_input("[model] kv_type '", name, "' is unknown; auto, f32, f16 and q8_0 are possible");
  return weights == DType::f32 ? DType::f32 : DType::f16;
}

DType layer_type(const GgufFile& file) {
  const GgufTensor* t = file.find_tensor("blk.0.attn_q.weight");
  if (!t) t = file.find_tensor("blk.0.attn_qkv.weight");
  return t ? file.dtype(*t) : DType::f16;
}

int checked_threads(int threads) {
  if (threads < 1 || threads > 1024) fail_input("[model] threads is ", threads, ", not from 1 to 1024");
  return threads;
}

// Bytes of each text's adapters that a pass takes into memory of their own, in a millisecond or less.
constexpr size_t kSettleBytes = 1 << 20;
constexpr size_t kKvAllowance = 16 << 20;  // bytes of a page that any file may ask for

}  // namespace

Model::Model(const FileSource& source, const ModelOptions& options)
    : file_(source),
      config_(read_config(file_, options.n_ctx)),
      n_ctx_(options.n_ctx > 0 ? options.n_ctx : config_.n_ctx_train),
      kv_(config_, choose_kv_type(options.kv_type, config_.causal ? layer_type(file_) : DType::f32)),
      backend_(options.cuda >= 0 ? make_cuda_backend(options.cuda)
                                 : make_cpu_backend(checked_threads(options.threads), options.cpus)),
      x_(*backend_),
      h_(*backend_),
      y_(*backend_),
      q_(*backend_),
      k_(*backend_),
      v_(*backend_),
      heads_(*backend_),
      gate_(*backend_),
      up_(*backend_),
      logits_(*backend_) {
  if (options.n_ctx < 0) fail_input("[model] n_ctx is ", options.n_ctx, ", a negative number");
  if (options.n_ctx > kMaxContext) fail_input("[model] n_ctx is ", options.n_ctx, ", more than ", kMaxContext);
  if (n_ctx_ > config_.n_ctx_max)
    fail_input("[model] n_ctx is ", n_ctx_, ", but '", file_.path(), "' has learned ", config_.n_ctx_max,
               " positions: longer contexts can't be run");
  if (kv_.type == DType::q8_0 && config_.head_dim % kBlock != 0)
    fail_input("[model] kv_type 'q8_0' needs heads of a multiple of ", kBlock, " elements; those of '", file_.path(),
               "' have ", config_.head_dim, ": use f16");
  if (kv_.type == DType::q8_0 && !backend_->is_host())
    fail_input("[model] kv_type 'q8_0' needs device='cpu': GPUs keep keys and values as f16 or f32");
  load_weights();
  check_kv_size();
  for (int id = 0; id < linear_count(config_); ++id) {
    const Weight& w = weight(id);
    if (!w.data) continue;
    backend_->keep(w);
    if (!backend_->is_host()) file_.let_go(w.data, size_t(w.n) * row_bytes(w.type, size_t(w.k)));  // it has its own
  }
  for (size_t r = 0; r < config_.ropes.size(); ++r) {
    cos_.emplace_back(*backend_);
    sin_.emplace_back(*backend_);
  }
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
  for (const auto* b : {&x_, &h_, &y_, &q_, &k_, &v_, &heads_, &gate_, &up_, &logits_}) n += b->n_bytes();
  for (const auto* ropes : {&cos_, &sin_})
    for (const auto& b : *ropes) n += b.n_bytes();
  return n;
}

const char* Model::larger_context() const {
  return n_ctx_ == config_.n_ctx_max ? "" : ", or load the model with a larger n_ctx (-c)";
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

void Model::check_texts(const std::vector<Feed>& texts) const {
  for (const Feed& text : texts) {
    if (text.sequence->length() != 0) fail_input("[model] a text to encode goes on from an earlier one");
    if (text.parts.size() != text.tokens.size())
      fail_input("[model] ", text.tokens.size(), " tokens, but kinds of ", text.parts.size());
    for (int part : text.parts)
      if (part < 0 || part >= std::max(1, config_.n_parts))
        fail_input("[model] kind ", part, " of a token is none of ", std::max(1, config_.n_parts));
  }
}

void Model::settle(const std::vector<Feed>& feeds) {
  if (!backend_->is_host()) return;
  std::set<const Adapter*> met;  // one that several texts use settles once
  for (const Feed& feed : feeds) {
    size_t settled = 0;
    for (const ActiveAdapter& active : feed.sequence->adapters_)
      if (settled < kSettleBytes && met.insert(active.adapter.get()).second)
        settled += active.adapter->settle(kSettleBytes - settled);
  }
}

void Model::encode(const std::vector<Feed>& texts, float* out, const std::function<bool()>& poll) {
  std::lock_guard<std::mutex> lock(mutex_);
  check(texts);
  check_texts(texts);
  const auto forget = [&] {
    for (const Feed& text : texts) text.sequence->kv_.truncate(0);
  };
  try {
    std::vector<Row> rows;
    for (size_t f = 0; f < texts.size(); ++f) {
      const Feed& text = texts[f];
      for (size_t i = 0; i < text.tokens.size(); ++i)
        rows.push_back({f, text.tokens[i], int(i), text.parts[i], i == 0, false});
      if (f + 1 < texts.size() && rows.size() + texts[f + 1].tokens.size() <= kMaxRows) continue;
      run_rows(texts, rows, poll);
      const int m = static_cast<int>(rows.size());
      if (config_.causal) backend_->norm(config_, x_.data(), output_norm_, m, config_.n_embd, x_.data());
      backend_->read(out, x_.data(), rows.size() * size_t(config_.n_embd) * sizeof(float));
      out += rows.size() * size_t(config_.n_embd);
      rows.clear();
    }
    settle(texts);
  } catch (...) {
    forget();
    throw;
  }
  forget();
}

void Model::forward(const std::vector<Feed>& feeds, float* all_logits, const std::function<bool()>& poll) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!config_.causal)
    fail_input("[model] '", file_.path(), "' is an encoder, which writes no text: use embed or classify");
  check(feeds);
  std::vector<int> before;
  for (const Feed& feed : feeds) before.push_back(feed.sequence->length());
  try {
    std::vector<Row> rows;
    for (size_t f = 0; f < feeds.size(); ++f) {
      const int n = static_cast<int>(feeds[f].tokens.size());
      for (int i = 0; i < n; ++i) {
        rows.push_back(
            {f, feeds[f].tokens[static_cast<size_t>(i)], before[f] + i, 0, i == 0, i >= n - feeds[f].n_logits});
        if (rows.size() < kMaxRows && !(i + 1 == n && f + 1 == feeds.size())) continue;
        run_rows(feeds, rows, poll);
        run_output(feeds, rows, all_logits);
        if (all_logits) all_logits += rows.size() * static_cast<size_t>(config_.n_vocab);
        rows.clear();
      }
    }
    settle(feeds);
  } catch (...) {
    for (size_t f = 0; f < feeds.size(); ++f) {
      Sequence& s = *feeds[f].sequence;
      if (s.length() == before[f]) continue;
      s.kv_.truncate(before[f]);
      s.logits_.cut(0);
    }
    throw;
  }
}

void Model::observe(Observer observer) {
  std::lock_guard<std::mutex> lock(mutex_);
  backend_->observe(std::move(observer));
}

}  // namespace lora_edge
