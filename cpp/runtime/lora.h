// Adapters as the runtime holds them: y += scale · B(A·x) per linear, beside the base and never merged into it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/arena.h"
#include "formats/blocks.h"
#include "runtime/config.h"

namespace lora_edge {

// The linears of a layer, in slot order; the two last ids of a model are the embedding and the output.
enum Slot { kQ, kK, kV, kO, kGate, kUp, kDown, kSlots };
inline int linear_id(int layer, Slot slot) { return layer * kSlots + slot; }
inline int embedding_id(const Config& c) { return c.n_layer * kSlots; }
inline int output_id(const Config& c) { return c.n_layer * kSlots + 1; }
inline int linear_count(const Config& c) { return c.n_layer * kSlots + 2; }
std::string linear_name(int n_layer, int id);  // "blk.0.attn_q.weight", "token_embd.weight", "output.weight"

// One linear's factors. A [r, k] row-major; for the embedding [n_vocab, r], a row per token. B [n, r] as files have it
// and, once made, in panels of kPanelOutputs outputs (the last may be narrower), each transposed to [r, outputs]: the
// update of a range of outputs then reads memory in order.
constexpr int kPanelOutputs = 64;
struct alignas(64) LoraWeight {
  int r = 0;  // 0: the adapter leaves this linear alone
  float scale = 0.0f;
  DType a_type = DType::f32, b_type = DType::f32;
  const uint8_t *a = nullptr, *b = nullptr, *panels = nullptr;
  int n = 0;
  size_t a_bytes = 0;

  size_t b_bytes() const { return row_bytes(b_type, static_cast<size_t>(n) * static_cast<size_t>(r)); }
};

// Made from factors that lie in a mapped file or in Python's arrays: loading copies nothing. As it is used it settles,
// linear by linear, into memory of its own, and in the end lets go of them.
class Adapter {
 public:
  Adapter(std::string name, int n_linear) : name_(std::move(name)), weights_(static_cast<size_t>(n_linear)) {}

  const std::string& name() const { return name_; }
  const LoraWeight& at(int id) const { return weights_[static_cast<size_t>(id)]; }
  size_t n_bytes() const;
  std::map<std::string, int> ranks() const;  // of the adapted tensors, by the base's name
  // Fetches at(id) and those of the two linears after it.
  void prefetch(int id) const {
    for (size_t i = static_cast<size_t>(id); i < static_cast<size_t>(id) + 3 && i < weights_.size(); ++i)
      __builtin_prefetch(&weights_[i]);
  }

  // Factors as described above, of `a_elements` elements and of n outputs.
  void set(int id, int n, size_t a_elements, int r, float scale, DType a_type, const void* a, DType b_type,
           const void* b);
  // Lives until the adapter has settled: what holds the factors given to set().
  void hold(std::shared_ptr<const void> owner) { owners_.push_back(std::move(owner)); }
  // Takes the next linears, of some `budget` bytes, into own memory; returns their bytes. The first call does nothing:
  // an adapter's first pass shouldn't wait. Not while a pass uses them.
  size_t settle(size_t budget);

 private:
  std::string name_;
  std::vector<LoraWeight> weights_;
  std::vector<std::shared_ptr<const void>> owners_;
  std::unique_ptr<Arena> own_;
  bool used_ = false;
  size_t settled_ = 0;  // weights
};

// What a sequence runs with: adapters, each with a weight that multiplies its own scales. Applied in order.
struct ActiveAdapter {
  std::shared_ptr<Adapter> adapter;
  float weight;
};
using AdapterSet = std::vector<ActiveAdapter>;

}  // namespace lora_edge
