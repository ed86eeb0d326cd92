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
  void set_adapters(AdapterSet adapters);  // of what is computed from now on, logits after a cut too
  void truncate(int n);                    // forgets all but the first n positions, with their logits
  std::shared_ptr<Sequence> fork() const;
  // [n_vocab] after the first n positions; nullptr where they are not kept. Not for use while another thread feeds.
  const float* logits(int n) const;
  const std::shared_ptr<Model>& model() const { return model_; }

 private:
  friend class Model;
  Sequence(const Sequence&) = default;  // shares all pages
  std::shared_ptr<Model> model_;
  AdapterSet adapters_;
  KvCache kv_;
  int kept_logits() const;     // rows of logits_
  std::vector<float> logits_;  // [kept, n_vocab] after the last positions
};

// New tokens of one sequence; the logits after the last n_logits of them are kept, one at least.
struct Feed {
  Sequence* sequence;
  std::vector<int> tokens;
  int n_logits = 1;
};

struct ModelOptions {
  int n_ctx = 0;  // 0: as trained
  int threads = 1;
  std::string kv_type = "auto";  // "f32", "f16"; auto: f32 where the weights are, else f16
  std::vector<int> cpus;         // that the threads stay on; none: wherever the system likes
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

  static constexpr int kMaxRows = 256;

 private:
  friend class Sequence;
  struct Layer {
    Weight linears[kSlots];
    const float *attn_norm, *ffn_norm, *q_norm, *k_norm;  // the last two nullptr where the architecture has none
  };
  struct Row {
    size_t feed;
    int token, position;
    bool first;  // of its sequence's new tokens
    bool kept;   // its logits stay in the sequence
  };

  const float* vector(const std::string& name, int n, bool required);
  Weight matrix(const std::string& name, int n, int k);
  void load_layers();
  void check_kv_size() const;
  const char* larger_context() const;  // the advice, where it can be followed
  void check(const std::vector<Feed>& feeds) const;
  void run_rows(const std::vector<Feed>& feeds, const std::vector<Row>& rows, float* all_logits,
                const std::function<bool()>& poll);
  void rotations(const std::vector<Row>& rows);

  GgufFile file_;
  Config config_;
  std::vector<std::string> used_;  // names of the tensors that the model reads
  Weight embedding_, output_;
  const float* output_norm_ = nullptr;
  std::vector<Layer> layers_;
  std::unordered_map<std::string, int> linear_ids_;
  int n_ctx_;
  KvLayout kv_;
  std::shared_ptr<std::atomic<size_t>> kv_bytes_ = std::make_shared<std::atomic<size_t>>(0);
  std::unique_ptr<Backend> backend_;
  std::mutex mutex_;  // of the sequences, the backend and the buffers below
  std::vector<float> x_, h_, q_, k_, v_, gate_, up_, cos_, sin_, logits_;
};

}  // namespace lora_edge
