#include "runtime/rope.h"

#include <cmath>
#include <cstring>

#include "base/error.h"

namespace lora_edge {
namespace {

// A tensor of positive factors [n], or none where the file has no such tensor.
std::vector<float> factors(const GgufFile& file, const std::string& name, size_t n) {
  const GgufTensor* t = file.find_tensor(name);
  if (!t) return {};
  if (t->type != 0 || t->shape.size() != 1 || t->shape[0] != n)
    fail_input("[model] tensor '", name, "' must be F32 with ", n, " elements");
  std::vector<float> out(n);
  std::memcpy(out.data(), t->data, 4 * n);
  for (const float factor : out)
    if (!(factor > 0)) fail_input("[model] tensor '", name, "' holds ", factor, ", not a positive factor");
  return out;
}

}  // namespace

double linear_rope_scale(const Metadata& meta) {
  const std::string type = meta.string("rope.scaling.type");
  if (!type.empty() && type != "none" && type != "linear" && type != "longrope")
    fail_input("[model] RoPE scaling '", clip(type),
               "' is not supported; none, linear, llama3's factors and longrope are");
  return type == "none" || type == "longrope"
             ? 1.0
             : meta.positive("rope.scaling.factor", meta.positive("rope.scale_linear", 1.0));
}

// Frequencies are base^(-2i / n_rot), divided by linear position scaling (Chen et al. 2023), by llama3's per-frequency
// factors (the tensor rope_freqs.weight) or by LongRoPE's (Ding et al. 2024). They are rounded to float32 step by step
// as in transformers, with whose angles models are trained: at position 10,000 float32's own rounding of an angle is
// 5e-4.
Rope read_rope(const Metadata& meta, int n_rot, double base, bool scaled, int n_ctx) {
  const size_t half = static_cast<size_t>(n_rot / 2);
  const float linear = scaled ? static_cast<float>(linear_rope_scale(meta)) : 1.0f;
  std::vector<float> divisors, by_length;
  float magnitude = 1.0f;
  if (scaled) {
    divisors = factors(meta.file(), "rope_freqs.weight", half);
    const std::vector<float> longer = factors(meta.file(), "rope_factors_long.weight", half);
    const std::vector<float> shorter = factors(meta.file(), "rope_factors_short.weight", half);
    if (longer.empty() != shorter.empty())
      fail_input("[model] of 'rope_factors_long.weight' and 'rope_factors_short.weight' one is missing");
    const int original = meta.integer("rope.scaling.original_context_length", 1, 1 << 30, 1 << 30);
    by_length = n_ctx > original ? longer : shorter;
    magnitude = static_cast<float>(meta.positive("rope.scaling.attn_factor", 1.0));
  }
  Rope rope{std::vector<float>(half), magnitude};
  for (size_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(n_rot);
    float power = static_cast<float>(std::pow(base, exponent));
    if (!by_length.empty()) power *= by_length[i];
    rope.inv_freq[i] = 1.0f / power / linear;
    if (!divisors.empty()) rope.inv_freq[i] /= divisors[i];
  }
  return rope;
}

}  // namespace lora_edge
