// Adapters as the runtime holds them: y += scale · B(A·x) per linear, beside the base and never merged into it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/blocks.h"
#include "runtime/config.h"

namespace lora_edge {

// The linears of a layer, in slot order; the two last ids of a model are the embedding and the output.
enum Slot { kQ, kK, kV, kO, kGate, kUp, kDown, kSlots };
inline int linear_id(int layer, Slot slot) { return layer * kSlots + slot; }
inline int embedding_id(const Config& c) { return c.n_layer * kSlots; }
inline int output_id(const Config& c) { return c.n_layer * kSlots + 1; }
inline int linear_count(const Config& c) { return c.n_layer * kSlots + 2; }
std::string linear_name(const Config& c, int id);  // "blk.0.attn_q.weight", "token_embd.weight", "output.weight"

// One linear's factors. A [r, k] row-major; for the embedding [n_vocab, r], a row per token. B lies in panels of
// kPanelOutputs outputs (the last may be narrower), each transposed to [r, outputs]: the update of a range of outputs
// reads memory in order.
constexpr int kPanelOutputs = 64;
struct alignas(64) LoraWeight {
  int r = 0;  // 0: the adapter leaves this linear alone
  float scale = 0.0f;
  DType a_type = DType::f32, bt_type = DType::f32;
  std::vector<uint8_t> a, bt;
};

class Adapter {
 public:
  Adapter(std::string name, int n_linear) : name_(std::move(name)), weights_(static_cast<size_t>(n_linear)) {}

  const std::string& name() const { return name_; }
  const LoraWeight& at(int id) const { return weights_[static_cast<size_t>(id)]; }
  size_t n_bytes() const;
  // Fetches at(id) and those of the two linears after it.
  void prefetch(int id) const {
    for (size_t i = static_cast<size_t>(id); i < static_cast<size_t>(id) + 3 && i < weights_.size(); ++i)
      __builtin_prefetch(&weights_[i]);
  }

  // a as described above, b [n, r] as files have it; replaces the weight at id.
  void set(int id, int n, size_t a_elements, int r, float scale, DType a_type, const void* a, DType b_type,
           const void* b);

 private:
  std::string name_;
  std::vector<LoraWeight> weights_;
};

// What a sequence runs with: adapters, each with a weight that multiplies its own scales. Applied in order.
struct ActiveAdapter {
  std::shared_ptr<const Adapter> adapter;
  float weight;
};
using AdapterSet = std::vector<ActiveAdapter>;

}  // namespace lora_edge
