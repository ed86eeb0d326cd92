// What a model is, read from GGUF metadata: the numbers that drive the one decoder block.
#pragma once

#include <string>
#include <vector>

#include "formats/gguf.h"

namespace lora_edge {

constexpr int kMaxContext = 1 << 30;  // positions

struct Config {
  std::string arch;  // "llama", "qwen2", "qwen3"
  std::string name;
  int n_layer, n_embd, n_head, n_head_kv, head_dim, n_ff, n_vocab;
  int window;       // positions that a token sees in the narrowest layer, itself included; 0: all
  int n_ctx_train;  // positions that the model is exact for: within the window, attention is full
  float rms_eps;
  bool rope_interleaved;
  int n_rot;  // rotated elements of a head
  double rope_base;
  double rope_linear;           // positions are divided by this
  std::vector<float> inv_freq;  // [n_rot / 2], radians per position, all scaling applied

  int q_dim() const { return n_head * head_dim; }
  int kv_dim() const { return n_head_kv * head_dim; }
};

Config read_config(const GgufFile& file);

}  // namespace lora_edge
