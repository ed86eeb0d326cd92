// Rotary position embeddings (Su et al. 2021): the frequencies of a model.
#pragma once

#include <string>
#include <vector>

#include "runtime/metadata.h"

namespace lora_edge {

struct Rope {
  std::vector<float> inv_freq;  // [n_rot / 2], radians per position, all scaling applied
  float magnitude;              // that cos and sin are multiplied by
};

// What the metadata says of the rotation by `base`, in layers with positions scaled as the file says, or without.
// n_ctx: the context to be run, which decides between long and short factors where there are both.
Rope read_rope(const Metadata& meta, int n_rot, double base, bool scaled, int n_ctx);
// By which linear scaling divides positions; 1: not at all.
double linear_rope_scale(const Metadata& meta);

}  // namespace lora_edge
