#include "runtime/lora.h"

#include <algorithm>

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

std::string linear_name(const Config& c, int id) {
  if (id == embedding_id(c)) return "token_embd.weight";
  if (id == output_id(c)) return "output.weight";
  return concat("blk.", id / kSlots, ".", kSlotNames[id % kSlots], ".weight");
}

size_t Adapter::n_bytes() const {
  size_t n = 0;
  for (const LoraWeight& w : weights_) n += w.a.size() + w.bt.size();
  return n;
}

void Adapter::set(int id, int n, size_t a_elements, int r, float scale, DType a_type, const void* a, DType b_type,
                  const void* b) {
  LoraWeight w;
  w.r = r;
  w.scale = scale;
  w.a_type = a_type;
  w.bt_type = b_type;
  w.a.resize(row_bytes(a_type, a_elements));
  std::memcpy(w.a.data(), a, w.a.size());
  w.bt.resize(row_bytes(b_type, static_cast<size_t>(n) * static_cast<size_t>(r)));
  if (b_type == DType::f32) {
    to_panels<uint32_t>(b, w.bt.data(), n, r);
  } else {
    to_panels<uint16_t>(b, w.bt.data(), n, r);
  }
  weights_[static_cast<size_t>(id)] = std::move(w);
}

}  // namespace lora_edge
