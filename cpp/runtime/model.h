// A loaded base model and the sequences that run on it.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "backend/backend.h"
#include "formats/gguf.h"
#include "runtime/config.h"
#include "runtime/kept_logits.h"
#include "runtime/kv_cache.h"
#include "runtime/lora.h"

namespace lora_edge {

class Model;

// One text in the making: its KV cache, its adapters, and the logits after its last positions, those that its last
// feed asked for. Used by one thread at a time.
class Sequence {
 public:
  Sequence(std::shared_ptr<Model> model, AdapterSet adapters);

  int length() const { return kv_.length(); }
  void set_adapters(AdapterSet adapters);           // of what is computed from now on, logits after a cut too
  void set_starts(const std::vector<int>& starts);  // of each adapter: the first position to come that it works on
  void truncate(int n);                             // forgets all but the first n positions, with their logits
  std::shared_ptr<Sequence> fork() const;
  // [n_vocab] after the first n positions; nullptr where they are not kept. Not for use while another thread feeds.
  const float* logits(int n);
  const Likeliest* likeliest(int n) const;  // of the same; nullptr where the backend doesn't say, too
  bool has_logits(int n) const { return row_of(n) >= 0; }
  const std::shared_ptr<Model>& model() const { return model_; }

 private:
  friend class Model;
  Sequence(const Sequence&) = default;  // shares all pages
  std::shared_ptr<Model> model_;
  AdapterSet adapters_;
  KvCache kv_;
  int row_of(int n) const;  // of logits_; -1: not kept
  KeptLogits logits_;
};

// New tokens of one sequence; the logits after the last n_logits of them are kept, one at least. parts: an encoder's
// kind of each token.
struct Feed {
  Sequence* sequence;
  std::vector<int> tokens;
  int n_logits = 1;
  std::vector<int> parts = {};
};

// Some rows of a linear's weight, without its bias.
struct LinearRows {
  int id;
  Weight weight;
};

struct ModelOptions {
  int n_ctx = 0;  // 0: as trained
  int threads = 1;
  std::string kv_type = "auto";  // "f32", "f16"; auto: f32 where the weights are, else f16
  std::vector<int> cpus;         // that the threads stay on; none: wherever the system likes
  int cuda = -1;                 // the GPU that computes; -1: the CPU does
};

class Model : public std::enable_shared_from_this<Model> {
 public:
  Model(const FileSource& source, const ModelOptions& options);

  const GgufFile& file() const { return file_; }
  const Config& config() const { return config_; }
  int n_ctx() const { return n_ctx_; }
  int threads() const { return backend_->threads(); }
  DType kv_type() const { return kv_.type; }
  const Weight& weight(int id) const;                // by linear_id, embedding_id, output_id
  int find_linear(const std::string& tensor) const;  // its id, -1 where there is none
  bool tied() const { return output_.data == embedding_.data; }
  std::shared_ptr<std::atomic<size_t>> kv_bytes() const { return kv_bytes_; }
  size_t buffer_bytes() const;

  // Runs the new tokens of all sequences, in chunks of at most kMaxRows rows, and leaves the logits asked for in them.
  // With `all_logits` the logits of every row go there too, [Σ tokens, n_vocab] in feed order. `poll` is called between
  // layers; when it returns true, Cancelled is thrown. After any exception all
  // sequences have the positions that they had before.
  // Calls from several threads take turns.
  void forward(const std::vector<Feed>& feeds, float* all_logits, const std::function<bool()>& poll);

  // The last hidden states, a decoder's normed, of every token of texts that begin here, [Σ tokens, n_embd] in feed
  // order. A text goes through as a whole: texts share a pass where they fit into kMaxRows rows. Nothing is kept in the
  // sequences.
  void encode(const std::vector<Feed>& texts, float* out, const std::function<bool()>& poll);

  // Products of single weights, for training (products.cpp). Calls take turns with passes.
  // InputError: no linear has this name, or it lacks some of the rows [n0, n1); an n1 of -1 stands for its last.
  LinearRows linear_rows(const std::string& tensor, int n0 = 0, int n1 = -1) const;
  // ys[i] [m, n] = Wᵢ·x for x [m, k] that they share, bit for bit as a pass makes them, without biases and adapters. An
  // observer sees x.
  void linear(const std::vector<LinearRows>& weights, const float* x, size_t m, const std::vector<float*>& ys);
  // dx [m, k] = Σ dYᵢ·Wᵢ
  void input_gradient(const std::vector<OutputGradient>& outputs, size_t m, float* dx);
  // A tensor of the file, for `rows`. InputError: it isn't there, or is no matrix.
  Weight file_matrix(const std::string& tensor) const;
  // out [m, k]: rows of w as floats; ids in [0, w.n).
  void rows(const Weight& w, const std::vector<int>& ids, float* out);

  // From now on every pass shows `observer` the inputs of its linears, on the thread that called forward. The observer
  // must not call the model; what it throws ends the pass.
  void observe(Observer observer);

  static constexpr int kMaxRows = 256;

 private:
  friend class Sequence;
  struct Layer {
    Weight linears[kSlots];  // without data where the architecture has none
    NormWeight attn_norm, attn_post_norm, ffn_norm, ffn_post_norm;
    const float *q_norm, *k_norm;
  };
  struct Row {
    size_t feed;
    int token, position, part;
    bool first;  // of its sequence's new tokens
    bool kept;   // its logits stay in the sequence
  };

  const float* floats(const std::string& name, const std::vector<uint64_t>& shape, bool required = true);
  Weight table(const std::string& name, int n, int k);   // whose rows are looked up: it has no bias
  Weight matrix(const std::string& name, int n, int k);  // with its bias, if there is one
  NormWeight norm(const std::string& stem);
  Layer load_layer(int i);
  void load_weights();
  void refuse_other_tensors() const;
  void check_kv_size() const;
  void check_host() const;
  const char* larger_context() const;  // the advice, where it can be followed
  void check(const std::vector<Feed>& feeds) const;
  void check_texts(const std::vector<Feed>& texts) const;
  void settle(const std::vector<Feed>& feeds);
  // x_ becomes the last hidden states.
  void run_rows(const std::vector<Feed>& feeds, const std::vector<Row>& rows, const std::function<bool()>& poll);
  void run_layer(int i, const std::vector<RowPlace>& places, const std::vector<RowGroup>& groups);
  void run_output(const std::vector<Feed>& feeds, const std::vector<Row>& rows, float* all_logits);
  void rotations(const std::vector<Row>& rows);

  GgufFile file_;
  Config config_;
  std::vector<std::string> used_;  // names of the tensors that the model reads
  Weight embedding_, parts_, positions_, output_;
  NormWeight embedding_norm_, output_norm_;
  std::vector<Layer> layers_;
  std::unordered_map<std::string, int> linear_ids_;
  int n_ctx_;
  KvLayout kv_;
  std::shared_ptr<std::atomic<size_t>> kv_bytes_ = std::make_shared<std::atomic<size_t>>(0);
  std::unique_ptr<Backend> backend_;
  std::mutex mutex_;  // of the sequences, the backend and the buffers below
  // Of a batch's rows: the residual stream, a sublayer's input and its output where this isn't added at once, queries,
  // keys, values (all three in q_ where one linear makes them), heads' results, gate, up (both in up_ likewise).
  Activations x_, h_, y_, q_, k_, v_, heads_, gate_, up_, logits_;
  std::vector<Activations> cos_, sin_;  // of each of Config::ropes
  std::vector<float> host_;             // what goes to the backend's memory, or comes from there
};

}  // namespace lora_edge
