// LoRA adapters in GGUF, as llama.cpp's converter writes them: pairs of tensors "<base tensor>.lora_a" [r, k] and
// ".lora_b" [n, r] (token_embd: [n_vocab, r] and [n_embd, r]), scaled by adapter.lora.alpha / r, or by 1 where alpha is
// 0 or absent.
#pragma once

#include <string>
#include <vector>

#include "formats/gguf.h"

namespace lora_edge {

struct GgufLoraPair {
  std::string tensor;  // the base's
  const GgufTensor *a, *b;
  double scale;
};

// The pairs, in the file's order. InputError: the file is no adapter, was made for another architecture, asks for what
// is not supported, or holds a tensor that has no place.
std::vector<GgufLoraPair> read_gguf_lora(const GgufFile& file, const std::string& arch);

}  // namespace lora_edge
