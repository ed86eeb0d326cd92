#include "runtime/config.h"

#include <cmath>

#include "base/error.h"
#include "runtime/metadata.h"

namespace lora_edge {
namespace {

// What an architecture is beyond the numbers that all files have; `c` holds these and llama's choices but for the order
// of rotated pairs. Keys, tensors and values are as llama.cpp's converter writes them.
struct Architecture {
  const char* name;
  void (*choose)(const Metadata&, Config&);
  int window_period = 0;  // of the layers with a window, where the file has no pattern; see Metadata::layers
  bool own_rope = false;  // layers with a window rotate by a base of their own, unscaled
  int no_rope_step = 0;   // every so many layers one has no rotation
};

void llama(const Metadata&, Config& c) { c.rope_interleaved = true; }
void qwen2(const Metadata&, Config&) {}
void qwen3(const Metadata&, Config& c) { c.qk_norm = QkNorm::shared; }

// Gemma's files hold 1 + w of its norms. They don't say by what scores are scaled: the head's width, but in the largest
// models n_embd / n_head.
void gemma(const Metadata& meta, Config& c, int largest) {
  c.post_norm = true;
  c.activation = Activation::gelu_tanh;
  c.embedding_scale = std::sqrt(static_cast<float>(c.n_embd));
  if (c.n_layer == largest) c.attention_scale = 1.0f / std::sqrt(static_cast<float>(c.n_embd / c.n_head));
  c.attention_cap = meta.positive_or_zero("attn_logit_softcapping", c.attention_cap);
  c.logit_cap = meta.positive_or_zero("final_logit_softcapping", c.logit_cap);
}

void gemma2(const Metadata& meta, Config& c) {
  c.attention_cap = 50.0f;
  c.logit_cap = 30.0f;
  if (!meta.has("attention.sliding_window")) c.window = 4096;
  gemma(meta, c, 46);
}

void gemma3(const Metadata& meta, Config& c) {
  c.qk_norm = QkNorm::shared;
  gemma(meta, c, 62);
}

void phi3(const Metadata&, Config& c) { c.fused_qkv = c.fused_gate_up = true; }

void gpt2(const Metadata&, Config& c) {
  c.norm = Norm::layer;
  c.activation = Activation::gelu_tanh;
  c.gated = false;
  c.fused_qkv = true;
  c.learned_positions = true;
}

void olmo2(const Metadata&, Config& c) {
  c.pre_norm = false;
  c.post_norm = true;
  c.qk_norm = QkNorm::whole;
}

void granite(const Metadata& meta, Config& c) {
  if (!meta.flag("rope.scaling.finetuned", true))
    fail_input("[model] granite without rotary positions (metadata 'granite.rope.scaling.finetuned') is not supported");
  c.rope_interleaved = true;
  c.embedding_scale = static_cast<float>(meta.positive("embedding_scale", 1.0));
  c.residual_scale = static_cast<float>(meta.positive("residual_scale", 1.0));
  c.logit_scale = 1.0f / static_cast<float>(meta.positive("logit_scale"));
}

void stablelm(const Metadata& meta, Config& c) {
  c.norm = Norm::layer;
  // Some files say it where they don't mean it: what counts is that there is no second norm.
  c.parallel = meta.flag("use_parallel_residual", true) && !meta.file().find_tensor("blk.0.ffn_norm.weight");
  if (meta.file().find_tensor("blk.0.attn_q_norm.weight")) c.qk_norm = QkNorm::per_head;
}

void smollm3(const Metadata&, Config& c) { c.rope_interleaved = true; }

// BERT and RoBERTa: encoders.
void bert(const Metadata& meta, Config& c) {
  if (meta.flag("attention.causal", false))
    fail_input("[model] '", meta.file().path(), "' is a causal bert: not supported");
  c.causal = false;
  c.norm = Norm::layer;
  c.pre_norm = false;
  c.sum_norm = true;
  c.embedding_norm = true;
  c.activation = Activation::gelu_erf;
  c.gated = false;
  c.learned_positions = true;
  const GgufTensor* parts = meta.file().find_tensor("token_types.weight");
  if (!parts) return;
  if (parts->shape.size() != 2 || parts->shape[0] < 1 || parts->shape[0] > 1024)
    fail_input("[model] tensor 'token_types.weight' has a wrong shape");
  c.n_parts = static_cast<int>(parts->shape[0]);
}

constexpr Architecture kArchitectures[] = {
    {"llama", llama},
    {"qwen2", qwen2},
    {"qwen3", qwen3},
    {"gemma2", gemma2, 2},
    {"gemma3", gemma3, 6, true},
    {"phi3", phi3},
    {"gpt2", gpt2},
    {"olmo2", olmo2, 4},
    {"granite", granite},
    {"stablelm", stablelm},
    {"smollm3", smollm3, 0, false, 4},
    {"bert", bert},
};

const Architecture& find_architecture(const std::string& name) {
  std::string known;
  for (const Architecture& a : kArchitectures) {
    if (name == a.name) return a;
    known += concat(known.empty() ? "" : &a == std::end(kArchitectures) - 1 ? " and " : ", ", a.name);
  }
  fail_input("[model] architecture '", clip(name), "' is not supported; ", known, " are");
}

void read_shape(const Metadata& meta, Config& c) {
  c.n_layer = meta.integer("block_count", 1, 1024);
  c.n_embd = meta.integer("embedding_length", 1, 1 << 17);
  c.n_head = meta.integer("attention.head_count", 1, 1 << 12);
  c.n_head_kv = meta.integer("attention.head_count_kv", 1, 1 << 12, c.n_head);
  c.n_ff = meta.integer("feed_forward_length", 1, 1 << 20);
  c.n_ctx_train = meta.integer("context_length", 1, kMaxContext);
  c.window = meta.integer("attention.sliding_window", 0, kMaxContext, 0);
  if (c.n_head % c.n_head_kv != 0)
    fail_input("[model] ", c.n_head, " heads can't share ", c.n_head_kv, " KV heads evenly");
  if (!meta.number("attention.key_length") && c.n_embd % c.n_head != 0)
    fail_input("[model] embedding length ", c.n_embd, " is no multiple of ", c.n_head, " heads");
  c.head_dim = meta.integer("attention.key_length", 2, 1 << 12, c.n_embd / c.n_head);
  if (meta.integer("attention.value_length", 1, 1 << 12, c.head_dim) != c.head_dim)
    fail_input("[model] keys and values of different lengths are not supported");
  c.attention_scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));

  const GgufTensor* embd = meta.file().find_tensor("token_embd.weight");
  if (!embd) fail_input("[model] tensor 'token_embd.weight' is missing: '", meta.file().path(), "' holds no weights");
  if (embd->shape.size() != 2 || embd->shape[0] > (1u << 24))
    fail_input("[model] tensor 'token_embd.weight' has a wrong shape");
  c.n_vocab = static_cast<int>(embd->shape[0]);
}

// Windows and rotations of the layers.
void read_positions(const Metadata& meta, const Architecture& architecture, int n_ctx, Config& c) {
  if (n_ctx == 0) n_ctx = c.n_ctx_train;
  const auto windowed = meta.layers("attention.sliding_window_pattern", c.n_layer, architecture.window_period);
  for (int i = 0; i < c.n_layer; ++i) c.layers.push_back({windowed[size_t(i)] ? c.window : 0, 0});
  c.rope_base = meta.positive("rope.freq_base", 10000.0);
  c.rope_linear = linear_rope_scale(meta);
  if (c.learned_positions) {
    c.n_ctx_max = c.n_ctx_train;
    for (LayerConfig& layer : c.layers) layer.rope = -1;
    return;
  }
  c.n_rot = meta.integer("rope.dimension_count", 2, c.head_dim, c.head_dim);
  if (c.n_rot % 2 != 0) fail_input("[model] rope.dimension_count is ", c.n_rot, ", an odd number");
  c.ropes.push_back(read_rope(meta, c.n_rot, c.rope_base, true, n_ctx));
  if (architecture.own_rope && c.window > 0) {
    c.ropes.push_back(read_rope(meta, c.n_rot, meta.positive("rope.freq_base_swa", 10000.0), false, n_ctx));
    for (LayerConfig& layer : c.layers) layer.rope = layer.window > 0 ? 1 : 0;
  }
  const size_t step = static_cast<size_t>(architecture.no_rope_step);
  for (size_t i = step; step > 0 && i <= c.layers.size(); i += step) c.layers[i - 1].rope = -1;
}

}  // namespace

Config read_config(const GgufFile& file, int n_ctx) {
  Config c{};
  if (string_value(file, "general.type") == "adapter")
    fail_input("[model] '", file.path(),
               "' is an adapter, not a model: load a base model and pass this as its adapter");
  c.arch = string_value(file, "general.architecture");
  c.name = string_value(file, "general.name");
  const Architecture& architecture = find_architecture(c.arch);
  const Metadata meta(file, c.arch);
  if (meta.integer("expert_count", 0, 1 << 16, 0) > 0)
    fail_input("[model] mixture-of-experts models are not supported");
  read_shape(meta, c);
  architecture.choose(meta, c);
  c.norm_eps = static_cast<float>(
      meta.positive(c.norm == Norm::rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon"));
  const float scale = meta.positive_or_zero("attention.scale", 0.0);
  if (scale != 0.0f) c.attention_scale = scale;
  read_positions(meta, architecture, n_ctx, c);
  return c;
}

}  // namespace lora_edge
