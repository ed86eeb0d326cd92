#include "runtime/config.h"

#include <cmath>
#include <optional>

#include "base/error.h"

namespace lora_edge {
namespace {

class Metadata {
 public:
  Metadata(const GgufFile& file, std::string arch) : file_(file), arch_(std::move(arch)) {}

  std::optional<double> number(const std::string& suffix) const {
    const std::string key = arch_ + "." + suffix;
    const GgufValue* v = file_.find_value(key);
    if (!v) return std::nullopt;
    if (const auto* u = std::get_if<uint64_t>(v)) return static_cast<double>(*u);
    if (const auto* i = std::get_if<int64_t>(v)) return static_cast<double>(*i);
    if (const auto* d = std::get_if<double>(v)) return *d;
    if (const auto* a = std::get_if<GgufArray>(v)) return uniform(key, *a);
    fail_input("[model] metadata '", key, "' must be a number");
  }

  int integer(const std::string& suffix, int low, int high, std::optional<int> absent = std::nullopt) const {
    const auto v = number(suffix);
    if (!v && absent) return *absent;
    if (!v) fail_input("[model] metadata '", arch_, ".", suffix, "' is missing");
    if (!(*v >= low && *v <= high) || *v != std::floor(*v))
      fail_input("[model] metadata '", arch_, ".", suffix, "' is ", *v, ", not an integer from ", low, " to ", high);
    return static_cast<int>(*v);
  }

  double positive(const std::string& suffix, std::optional<double> absent = std::nullopt) const {
    const auto v = number(suffix);
    if (!v && absent) return *absent;
    if (!v) fail_input("[model] metadata '", arch_, ".", suffix, "' is missing");
    if (!(*v >= 1e-30 && *v <= 1e30))  // what float32 holds with room to spare
      fail_input("[model] metadata '", arch_, ".", suffix, "' is ", *v, ", not a positive number from 1e-30 to 1e30");
    return *v;
  }

  std::string string(const std::string& suffix) const {
    const GgufValue* v = file_.find_value(arch_ + "." + suffix);
    const auto* s = v ? std::get_if<std::string_view>(v) : nullptr;
    return s ? std::string(*s) : std::string();
  }

 private:
  // Some writers give one number per layer.
  double uniform(const std::string& key, const GgufArray& a) const {
    if ((a.type != GgufType::u32 && a.type != GgufType::i32) || a.count == 0)
      fail_input("[model] metadata '", key, "' must be a number or a list of 32-bit integers");
    uint32_t first = 0;
    std::memcpy(&first, a.data, 4);
    for (uint64_t i = 1; i < a.count; ++i)
      if (std::memcmp(a.data + 4 * i, a.data, 4) != 0)
        fail_input("[model] metadata '", key, "' differs between layers, which is not supported");
    return first;
  }

  const GgufFile& file_;
  std::string arch_;
};

std::string string_value(const GgufFile& file, const std::string& key) {
  const GgufValue* v = file.find_value(key);
  const auto* s = v ? std::get_if<std::string_view>(v) : nullptr;
  return s ? std::string(*s) : std::string();
}

// Frequencies of RoPE (Su et al. 2021): base^(-2i / n_rot), divided by linear position scaling (Chen et al. 2023) and
// by llama3's per-frequency factors, which GGUF stores as the tensor rope_freqs.weight. They are rounded to float32
// step by step as in transformers, with whose angles models are trained: at position 10,000 float32's own rounding of
// an angle is 5e-4.
std::vector<float> frequencies(const GgufFile& file, const Config& c) {
  std::vector<float> out(static_cast<size_t>(c.n_rot / 2));
  for (size_t i = 0; i < out.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(c.n_rot);
    out[i] = 1.0f / static_cast<float>(std::pow(c.rope_base, exponent)) / static_cast<float>(c.rope_linear);
  }
  const GgufTensor* factors = file.find_tensor("rope_freqs.weight");
  if (!factors) return out;
  if (factors->type != 0 || factors->shape.size() != 1 || factors->shape[0] != out.size())
    fail_input("[model] tensor 'rope_freqs.weight' must be F32 with ", out.size(), " elements");
  for (size_t i = 0; i < out.size(); ++i) {
    float factor;
    std::memcpy(&factor, factors->data + 4 * i, 4);
    if (!(factor > 0)) fail_input("[model] tensor 'rope_freqs.weight' holds ", factor, ", not a positive factor");
    out[i] /= factor;
  }
  return out;
}

}  // namespace

Config read_config(const GgufFile& file) {
  Config c{};
  if (string_value(file, "general.type") == "adapter")
    fail_input("[model] '", file.path(),
               "' is an adapter, not a model: load a base model and pass this as its adapter");
  c.arch = string_value(file, "general.architecture");
  c.name = string_value(file, "general.name");
  if (c.arch != "llama" && c.arch != "qwen2" && c.arch != "qwen3")
    fail_input("[model] architecture '", clip(c.arch), "' is not supported; llama, qwen2 and qwen3 are");
  const Metadata meta(file, c.arch);
  if (meta.integer("expert_count", 0, 1 << 16, 0) > 0)
    fail_input("[model] mixture-of-experts models are not supported");

  c.n_layer = meta.integer("block_count", 1, 1024);
  c.n_embd = meta.integer("embedding_length", 1, 1 << 17);
  c.n_head = meta.integer("attention.head_count", 1, 1 << 12);
  c.n_head_kv = meta.integer("attention.head_count_kv", 1, 1 << 12, c.n_head);
  c.n_ff = meta.integer("feed_forward_length", 1, 1 << 20);
  c.n_ctx_train = meta.integer("context_length", 1, kMaxContext);
  c.window = meta.integer("attention.sliding_window", 0, kMaxContext, 0);
  if (c.window > 0 && c.window < c.n_ctx_train) c.n_ctx_train = c.window;
  if (c.n_head % c.n_head_kv != 0)
    fail_input("[model] ", c.n_head, " heads can't share ", c.n_head_kv, " KV heads evenly");
  if (!meta.number("attention.key_length") && c.n_embd % c.n_head != 0)
    fail_input("[model] embedding length ", c.n_embd, " is no multiple of ", c.n_head, " heads");
  c.head_dim = meta.integer("attention.key_length", 2, 1 << 12, c.n_embd / c.n_head);
  if (meta.integer("attention.value_length", 1, 1 << 12, c.head_dim) != c.head_dim)
    fail_input("[model] keys and values of different lengths are not supported");
  c.rms_eps = static_cast<float>(meta.positive("attention.layer_norm_rms_epsilon"));

  c.rope_interleaved = c.arch == "llama";
  c.n_rot = meta.integer("rope.dimension_count", 2, c.head_dim, c.head_dim);
  if (c.n_rot % 2 != 0) fail_input("[model] rope.dimension_count is ", c.n_rot, ", an odd number");
  c.rope_base = meta.positive("rope.freq_base", 10000.0);
  const std::string scaling = meta.string("rope.scaling.type");
  if (!scaling.empty() && scaling != "none" && scaling != "linear")
    fail_input("[model] RoPE scaling '", clip(scaling), "' is not supported; none, linear and llama3's factors are");
  c.rope_linear =
      scaling == "none" ? 1.0 : meta.positive("rope.scaling.factor", meta.positive("rope.scale_linear", 1.0));
  c.inv_freq = frequencies(file, c);

  const GgufTensor* embd = file.find_tensor("token_embd.weight");
  if (!embd) fail_input("[model] tensor 'token_embd.weight' is missing: '", file.path(), "' holds no weights");
  if (embd->shape.size() != 2 || embd->shape[0] > (1u << 24))
    fail_input("[model] tensor 'token_embd.weight' has a wrong shape");
  c.n_vocab = static_cast<int>(embd->shape[0]);
  return c;
}

}  // namespace lora_edge
