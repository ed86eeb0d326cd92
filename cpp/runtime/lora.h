// Adapters as the runtime holds them: y += scale · B(A·x) per linear, beside the base and never merged into it.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/arena.h"
#include "formats/blocks.h"
#include "runtime/config.h"

namespace lora_edge {

struct Weight;

// The linears of a layer, in slot order; the two last ids of a model are the embedding and the output. Where one linear
// makes queries, keys and values it is kQ, and where one makes gate and up it is kUp; the others' slots are empty.
enum Slot { kQ, kK, kV, kO, kGate, kUp, kDown, kSlots };
inline int linear_id(int layer, Slot slot) { return layer * kSlots + slot; }
inline int embedding_id(const Config& c) { return c.n_layer * kSlots; }
inline int output_id(const Config& c) { return c.n_layer * kSlots + 1; }
inline int linear_count(const Config& c) { return c.n_layer * kSlots + 2; }
bool has_slot(const Config& c, Slot slot);
// "blk.0.attn_q.weight", "token_embd.weight", "output.weight"
std::string linear_name(int n_layer, bool fused_qkv, int id);
inline std::string linear_name(const Config& c, int id) { return linear_name(c.n_layer, c.fused_qkv, id); }

// One linear's factors. A [r, k] row-major; for the embedding [n_vocab, r], a row per token. B [n, r] as files have it
// and, once made, in panels of kPanelOutputs outputs (the last may be narrower), each transposed to [r, outputs]: the
// update of a range of outputs then reads memory in order.
constexpr int kPanelOutputs = 64;

// What an adapter does to a linear beside its factors.
struct LoraExtra {
  std::vector<float> bias;  // [n] of lora_B, or empty: y += scale · bias
  // DoRA (Liu et al. 2024, arXiv:2402.09353): magnitudes [n], or empty, and for each output the sums over the row of
  // W², W·BA and (BA)², which give the row's norm in W + scale · BA for any scale.
  std::vector<float> magnitude;
  std::vector<double> squares, products, low_rank_squares;
  std::shared_ptr<const Weight> whole;  // takes the place of W, with its bias; then there are no factors
};

struct alignas(64) LoraWeight {
  int r = 0;  // 0: the adapter leaves this linear alone
  float scale = 0.0f;
  DType a_type = DType::f32, b_type = DType::f32;
  const uint8_t *a = nullptr, *b = nullptr, *panels = nullptr;
  int n = 0;
  size_t a_bytes = 0;
  const LoraExtra* extra = nullptr;  // nullptr: plain LoRA

  size_t b_bytes() const { return row_bytes(b_type, static_cast<size_t>(n) * static_cast<size_t>(r)); }
};

// c = magnitude / ‖row of W + scale · BA‖ of each linear with DoRA [n]; empty for the others.
using RowScales = std::vector<std::vector<float>>;

// Made from factors that lie in a mapped file or in Python's arrays: loading copies nothing. As it is used it settles,
// linear by linear, into memory of its own, and in the end lets go of them.
class Adapter {
 public:
  Adapter(std::string name, const Config& c)
      : name_(std::move(name)), fused_qkv_(c.fused_qkv), weights_(static_cast<size_t>(linear_count(c))) {}

  const std::string& name() const { return name_; }
  const LoraWeight& at(int id) const { return weights_[static_cast<size_t>(id)]; }
  size_t n_bytes() const;
  std::map<std::string, int> ranks() const;  // of the adapted tensors, by the base's name
  // Fetches at(id) and those of the two linears after it.
  void prefetch(int id) const {
    for (size_t i = static_cast<size_t>(id); i < static_cast<size_t>(id) + 3 && i < weights_.size(); ++i)
      __builtin_prefetch(&weights_[i]);
  }

  bool has_wholes() const { return has_wholes_; }
  std::string common_whole(const Adapter& other) const;  // name of a linear that both replace, or empty
  // Those for factors that are scaled by a further `weight`; nullptr where no linear has DoRA.
  std::shared_ptr<const RowScales> row_scales(float weight) const;

  // Factors as described above, of `a_elements` elements and of n outputs.
  void set(int id, int n, size_t a_elements, int r, float scale, DType a_type, const void* a, DType b_type,
           const void* b);
  void set_extra(int id, LoraExtra extra);
  // Lives until the adapter has settled: what holds the factors given to set().
  void hold(std::shared_ptr<const void> owner) { owners_.push_back(std::move(owner)); }
  // Lives as long as the adapter: what holds whole weights.
  void keep(std::shared_ptr<const void> owner) { kept_.push_back(std::move(owner)); }
  // What a backend keeps of it in a memory of its own, for as long as it lives.
  std::shared_ptr<const void>& copy() { return copy_; }
  // Takes the next linears, of some `budget` bytes, into own memory; returns their bytes. The first call does nothing:
  // an adapter's first pass shouldn't wait. Not while a pass uses them.
  size_t settle(size_t budget);

 private:
  std::string name_;
  bool fused_qkv_;
  std::vector<LoraWeight> weights_;
  std::vector<std::unique_ptr<const LoraExtra>> extras_;
  std::vector<std::shared_ptr<const void>> owners_, kept_;
  std::shared_ptr<const void> copy_;
  std::unique_ptr<Arena> own_;
  bool used_ = false;
  size_t settled_ = 0;  // weights
  bool has_dora_ = false, has_wholes_ = false;
  mutable std::mutex mutex_;  // of scales_
  mutable std::map<float, std::weak_ptr<const RowScales>> scales_;
};

// What a sequence runs with: adapters, each with a weight that multiplies its own scales. Applied in order. One of
// weight 0 is left out.
struct ActiveAdapter {
  ActiveAdapter(std::shared_ptr<Adapter> a, float w)
      : adapter(std::move(a)), weight(w), scales(adapter->row_scales(w)) {}
  std::shared_ptr<Adapter> adapter;
  float weight;
  std::shared_ptr<const RowScales> scales;
  int start = 0;  // its factors are used from this position of the sequence on
};
using AdapterSet = std::vector<ActiveAdapter>;

// Whether an adapter starts after position `before`, at `position` at the latest.
bool starts_between(const AdapterSet& set, int before, int position);

// InputError: two of them bring a whole weight for the same linear.
void check_set(const AdapterSet& set);

}  // namespace lora_edge
