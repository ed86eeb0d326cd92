// What follows W·x: y = c ∘ (W·x + b + Σ B·u), or the residual stream's sum.
#pragma once

namespace lora_edge::cuda {

DEVICE void finish(const LinearArgs& a, const LinearOne& l, int row, int j, float y) {
  const float bias = l.w.bias ? load_cached(l.w.bias + j) : 0.0f;
  y += bias;
  if (l.ranges) {
    const PartRange range = l.ranges[row];
    for (int p = range.first; p < range.first + range.count; ++p) {
      const Part& part = a.parts[p];
      const float* u = l.u + static_cast<long long>(row) * a.ldu + part.u0;
      const long long b = static_cast<long long>(j) * part.r;
      for (int t = 0; t < part.r; ++t) y = fma_(u[t], load_float(part.b, part.b_kind, b + t), y);
      if (part.bias) y += part.scale * load_cached(part.bias + j);
      if (part.row_scales) y = (y - bias) * load_cached(part.row_scales + j) + bias;
    }
  }
  float* out = l.y + static_cast<long long>(row) * l.w.n + j;
  *out = l.accumulate ? *out + y * l.scale : y;
}

}  // namespace lora_edge::cuda
