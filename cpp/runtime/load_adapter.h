// Factors into an adapter of a model, checked; nothing is copied but what must be converted.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "runtime/lora.h"

namespace lora_edge {

class Model;

// A matrix in memory, row-major: f32, f16 or bf16.
struct Factor {
  DType type;
  std::vector<uint64_t> shape;
  const void* data;
};

// The factors of one base tensor: y += scale · B(A·x).
struct LoraFactors {
  std::string tensor;
  Factor a, b;
  double scale;
};

// Puts them into the adapter. InputError: the base has no such tensor, shapes don't fit it, a number is not finite.
// `where` begins the message.
void place_factors(Adapter& adapter, const Model& model, const std::string& where,
                   const std::vector<LoraFactors>& factors);

// The adapter of a GGUF file, its scales times `factor`; it holds the file until it has settled.
std::shared_ptr<Adapter> load_gguf_adapter(const Model& model, const std::string& name,
                                           const std::shared_ptr<const GgufFile>& file, double factor);

}  // namespace lora_edge
