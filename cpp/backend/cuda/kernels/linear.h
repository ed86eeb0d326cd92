// What linears have in common whose products are made in different ways: who makes which, and what follows W·x.
#pragma once

namespace lora_edge::cuda {

// The linear of block x of all, which becomes the block of that linear. outputs(kind): of a block.
template <class F>
DEVICE int linear_of(const LinearArgs& a, int& x, const F& outputs) {
  int l = 0;
  for (; l + 1 < a.n_linears; ++l) {
    const int each = outputs(a.linears[l].w.kind), blocks = (a.linears[l].w.n + each - 1) / each;
    if (x < blocks) break;
    x -= blocks;
  }
  return l;
}

// y = c ∘ (W·x + b + Σ B·u), or the residual stream's sum.
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
