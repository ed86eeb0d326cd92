// What a model is, read from GGUF metadata: the numbers and choices that drive the one decoder block.
#pragma once

#include <string>
#include <vector>

#include "formats/gguf.h"
#include "runtime/rope.h"

namespace lora_edge {

constexpr int kMaxContext = 1 << 30;  // positions

// rms: Zhang & Sennrich 2019; layer: Ba et al. 2016, with a bias.
enum class Norm { rms, layer };
// Of queries and keys before they are rotated: one weight [head_dim] for all heads, one for each, or one norm over all
// heads together.
enum class QkNorm { none, shared, per_head, whole };
enum class Activation { silu, gelu_tanh, gelu_erf };

struct LayerConfig {
  int window;  // positions that a token sees, itself included; 0: all
  int rope;    // of Config::ropes; -1: queries and keys are not rotated
};

// A layer is  x += r · post(attention(pre(x))),  then  x += r · post(ffn(pre(x))); `parallel` layers add both made from
// one pre(x), and with `sum_norm` each sum is normed: x = norm(x + ...). ffn(h) = down(act(gate h) ∘ up h), or
// down(act(up h)) where it is not gated.
struct Config {
  std::string arch;  // GGUF's name: "llama", "gemma2" ...
  std::string name;
  int n_layer, n_embd, n_head, n_head_kv, head_dim, n_ff, n_vocab;
  int n_ctx_train;
  int n_ctx_max = kMaxContext;  // more positions can't be run
  int window;                   // of the layers that have one; 0: none has
  std::vector<LayerConfig> layers;

  Norm norm = Norm::rms;
  float norm_eps;
  bool pre_norm = true, post_norm = false, sum_norm = false;
  bool parallel = false;
  QkNorm qk_norm = QkNorm::none;
  Activation activation = Activation::silu;
  bool gated = true;
  bool fused_qkv = false;      // one linear makes queries, keys and values, in this order
  bool fused_gate_up = false;  // one linear makes the gate, then up

  bool causal = true;  // a token sees those before it and itself; else, in an encoder, all of the text
  int n_parts = 0;     // kinds of tokens with an embedding of their own, such as the texts of a pair; 0: none
  bool embedding_norm = false;
  bool learned_positions = false;  // added to the embedding
  bool rope_interleaved = false;   // pairs (2i, 2i + 1) are rotated, else (i, i + n_rot / 2)
  int n_rot;                       // rotated elements of a head; 0: none
  double rope_base;
  double rope_linear;  // positions are divided by this
  std::vector<Rope> ropes;

  float embedding_scale = 1.0f, residual_scale = 1.0f, logit_scale = 1.0f;  // multiply
  float attention_scale;                                                    // of q · k
  float attention_cap = 0.0f, logit_cap = 0.0f;  // x becomes cap · tanh(x / cap); 0: as it is

  int q_dim() const { return n_head * head_dim; }
  int kv_dim() const { return n_head_kv * head_dim; }
};

// n_ctx: the context to be run; 0: the one that the model was trained with.
Config read_config(const GgufFile& file, int n_ctx);

}  // namespace lora_edge
