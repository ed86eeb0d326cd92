// Factors into an adapter of a model, checked; nothing is copied but what must be converted.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "runtime/lora.h"

namespace lora_edge {

class Model;

// A matrix in memory, row-major: f32, f16 or bf16, whole weights in blocks too.
struct Factor {
  DType type;
  std::vector<uint64_t> shape;
  const void* data;
};

// The factors of one base tensor: y += scale · B(A·x). magnitude and bias [n] of its outputs, or empty: LoraExtra.
struct LoraFactors {
  std::string tensor;
  Factor a, b;
  double scale;
  std::vector<float> magnitude, bias;
};

// A weight that takes the place of the base's, in the adapter's memory; bias [n_bias] or nullptr.
struct WholeWeight {
  std::string tensor;
  Factor weight;
  const float* bias;
  size_t n_bias;
};

// Puts them into the adapter. InputError: the base has no such tensor, shapes don't fit it, a number is not finite.
// `where` begins the message.
void place_factors(Adapter& adapter, const Model& model, const std::string& where,
                   const std::vector<LoraFactors>& factors, const std::vector<WholeWeight>& wholes = {});

// The adapter of a GGUF file, its scales times `factor`; it holds the file until it has settled, or
// always where it needs whole weights of it.
std::shared_ptr<Adapter> load_gguf_adapter(const Model& model, const std::string& name,
                                           const std::shared_ptr<const GgufFile>& file, double factor);

}  // namespace lora_edge
