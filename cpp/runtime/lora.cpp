#include "runtime/lora.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/backend.h"
#include "base/error.h"

namespace lora_edge {
namespace {

constexpr const char* kSlotNames[kSlots] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                            "ffn_gate", "ffn_up", "ffn_down"};

// Of a row's squares in W and scale · BA, the share below which the square of their sum is lost in float32's rounding.
constexpr double kLeast = 1e-4;

template <class T>
void to_panels(const void* in, void* out, int n, int r) {
  const T* b = static_cast<const T*>(in);
  T* panel = static_cast<T*>(out);
  for (int j0 = 0; j0 < n; j0 += kPanelOutputs) {
    const size_t width = static_cast<size_t>(std::min(kPanelOutputs, n - j0));
    for (size_t j = 0; j < width; ++j, b += r)
      for (int t = 0; t < r; ++t) panel[static_cast<size_t>(t) * width + j] = b[t];
    panel += width * static_cast<size_t>(r);
  }
}

}  // namespace

bool has_slot(const Config& c, Slot slot) {
  if (slot == kK || slot == kV) return !c.fused_qkv;
  return slot != kGate || (c.gated && !c.fused_gate_up);
}

std::string linear_name(int n_layer, bool fused_qkv, int id) {
  if (id == n_layer * kSlots) return "token_embd.weight";
  if (id == n_layer * kSlots + 1) return "output.weight";
  const int slot = id % kSlots;
  return concat("blk.", id / kSlots, ".", fused_qkv && slot == kQ ? "attn_qkv" : kSlotNames[slot], ".weight");
}

std::map<std::string, int> Adapter::ranks() const {
  const int n = static_cast<int>(weights_.size());
  std::map<std::string, int> ranks;
  for (int id = 0; id < n; ++id)
    if (at(id).r != 0) ranks[linear_name((n - 2) / kSlots, fused_qkv_, id)] = at(id).r;
  return ranks;
}

size_t Adapter::n_bytes() const {
  size_t n = 0;
  for (const LoraWeight& w : weights_) n += w.a_bytes + w.b_bytes();
  for (const auto& extra : extras_) {
    n += (extra->bias.size() + 2 * extra->magnitude.size()) * sizeof(float);
    n += 3 * extra->squares.size() * sizeof(double);
    if (extra->whole)
      n += row_bytes(extra->whole->type, static_cast<size_t>(extra->whole->k)) * static_cast<size_t>(extra->whole->n);
  }
  return n;
}

void Adapter::set_extra(int id, LoraExtra extra) {
  has_dora_ |= !extra.magnitude.empty();
  has_wholes_ |= extra.whole != nullptr;
  extras_.push_back(std::make_unique<const LoraExtra>(std::move(extra)));
  weights_[static_cast<size_t>(id)].extra = extras_.back().get();
}

std::shared_ptr<const RowScales> Adapter::row_scales(float weight) const {
  if (!has_dora_) return nullptr;
  std::lock_guard<std::mutex> lock(mutex_);
  for (auto at = scales_.begin(); at != scales_.end();) at = at->second.expired() ? scales_.erase(at) : std::next(at);
  std::weak_ptr<const RowScales>& cached = scales_[weight];
  if (const auto ready = cached.lock()) return ready;
  const auto scales = std::make_shared<RowScales>(weights_.size());
  for (size_t id = 0; id < weights_.size(); ++id) {
    const LoraExtra* extra = weights_[id].extra;
    if (!extra || extra->magnitude.empty()) continue;
    const double s = weights_[id].scale * weight;
    std::vector<float>& c = (*scales)[id];
    for (size_t j = 0; j < extra->magnitude.size(); ++j) {
      const double square = extra->squares[j] + s * (2 * extra->products[j] + s * extra->low_rank_squares[j]);
      const bool lost = square <= kLeast * (extra->squares[j] + s * s * extra->low_rank_squares[j]);
      c.push_back(lost ? INFINITY : static_cast<float>(extra->magnitude[j] / std::sqrt(square)));
    }
  }
  cached = scales;
  return scales;
}

std::string Adapter::common_whole(const Adapter& other) const {
  const int n = static_cast<int>(weights_.size());
  const auto has = [](const LoraWeight& w) { return w.extra && w.extra->whole; };
  for (int id = 0; id < n; ++id)
    if (has(at(id)) && has(other.at(id))) return linear_name((n - 2) / kSlots, fused_qkv_, id);
  return "";
}

bool starts_between(const AdapterSet& set, int before, int position) {
  return std::any_of(set.begin(), set.end(),
                     [&](const ActiveAdapter& active) { return active.start > before && active.start <= position; });
}

void check_set(const AdapterSet& set) {
  for (const ActiveAdapter& active : set) {
    if (!active.adapter->has_wholes() || active.weight == 0.0f) continue;
    for (const ActiveAdapter& other : set) {
      if (&other == &active) break;
      if (const std::string both = active.adapter->common_whole(*other.adapter); other.weight != 0.0f && !both.empty())
        fail_input("[adapter] '", other.adapter->name(), "' and '", active.adapter->name(), "' both replace ", both,
                   " (modules_to_save): use one of them at a time");
    }
  }
}

void Adapter::set(int id, int n, size_t a_elements, int r, float scale, DType a_type, const void* a, DType b_type,
                  const void* b) {
  LoraWeight& w = weights_[static_cast<size_t>(id)];
  w.r = r;
  w.scale = scale;
  w.a_type = a_type;
  w.b_type = b_type;
  w.a = static_cast<const uint8_t*>(a);
  w.b = static_cast<const uint8_t*>(b);
  w.n = n;
  w.a_bytes = row_bytes(a_type, a_elements);
}

size_t Adapter::settle(size_t budget) {
  size_t done = 0;
  if (!std::exchange(used_, true)) return done;
  if (!own_ && settled_ < weights_.size()) {
    size_t all = 0;
    for (const LoraWeight& w : weights_) all += Arena::rounded(w.a_bytes) + Arena::rounded(w.b_bytes());
    own_ = std::make_unique<Arena>(all);
  }
  for (; settled_ < weights_.size() && done < budget; ++settled_) {
    LoraWeight& w = weights_[settled_];
    if (w.r == 0) continue;
    uint8_t *a = own_->take(w.a_bytes), *panels = own_->take(w.b_bytes());
    std::memcpy(a, w.a, w.a_bytes);
    if (w.b_type == DType::f32) {
      to_panels<uint32_t>(w.b, panels, w.n, w.r);
    } else {
      to_panels<uint16_t>(w.b, panels, w.n, w.r);
    }
    w.a = a;
    w.panels = panels;
    done += w.a_bytes + w.b_bytes();
  }
  if (settled_ == weights_.size()) owners_.clear();
  return done;
}

}  // namespace lora_edge
