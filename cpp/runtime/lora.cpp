#include "runtime/lora.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace lora_edge {
namespace {

constexpr const char* kSlotNames[kSlots] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                            "ffn_gate", "ffn_up", "ffn_down"};

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

std::string linear_name(int n_layer, int id) {
  if (id == n_layer * kSlots) return "token_embd.weight";
  if (id == n_layer * kSlots + 1) return "output.weight";
  return concat("blk.", id / kSlots, ".", kSlotNames[id % kSlots], ".weight");
}

std::map<std::string, int> Adapter::ranks() const {
  const int n = static_cast<int>(weights_.size());
  std::map<std::string, int> ranks;
  for (int id = 0; id < n; ++id)
    if (at(id).r != 0) ranks[linear_name((n - 2) / kSlots, id)] = at(id).r;
  return ranks;
}

size_t Adapter::n_bytes() const {
  size_t n = 0;
  for (const LoraWeight& w : weights_) n += w.a_bytes + w.b_bytes();
  return n;
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
