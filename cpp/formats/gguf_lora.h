// LoRA adapters in GGUF, as llama.cpp's converter writes them: pairs of tensors "<base tensor>.lora_a" [r, k] and
// ".lora_b" [n, r] (token_embd: [n_vocab, r] and [n_embd, r]), scaled by adapter.lora.alpha / r, or by 1 where alpha is
// 0 or absent.
//
// What llama.cpp doesn't know has tensors of its own beside them, on whose names it stops: "<base
// tensor>.lora_magnitude" [n] (DoRA), "<base tensor>.lora_b.bias" [n], and "<base tensor>.modules_to_save", a whole
// weight, with that of the bias.
// "token_embd.weight.lookup_only" says that an adapter of the embedding leaves a tied output alone: llama.cpp would use
// it for both.
#pragma once

#include <string>
#include <vector>

#include "formats/gguf.h"

namespace lora_edge {

struct GgufLoraPair {
  std::string tensor;  // the base's
  const GgufTensor *a, *b;
  double scale;
  const GgufTensor *magnitude, *bias;  // F32 [n], or nullptr
};

// A weight in the place of the base's.
struct GgufWhole {
  std::string tensor;
  const GgufTensor *weight, *bias;  // bias: F32 [n], or nullptr
};

struct GgufLora {
  std::vector<GgufLoraPair> pairs;  // in the file's order
  std::vector<GgufWhole> wholes;
  std::vector<int64_t> invocation;  // aLoRA's tokens; empty for others
};

// InputError: the file is no adapter, was made for another architecture, asks for what
// is not supported, or holds a tensor that has no place.
GgufLora read_gguf_lora(const GgufFile &file, const std::string &arch);

}  // namespace lora_edge
