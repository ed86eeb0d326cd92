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

// Whether rows have the same parts; those between them are of the same sequence then, and have them, too.
DEVICE bool same_parts(const PartRange* ranges, int row, int last) {
  return ranges[row].first == ranges[last].first && ranges[row].count == ranges[last].count;
}

DEVICE float bias_of(const LinearOne& l, int j) { return l.w.bias ? load_cached(l.w.bias + j) : 0.0f; }

// What follows a part's B·u.
DEVICE float end_part(const LinearOne& l, const Part& part, int j, float y) {
  if (part.bias) y += part.scale * load_cached(part.bias + j);
  if (!part.row_scales) return y;
  const float bias = bias_of(l, j);
  return (y - bias) * load_cached(part.row_scales + j) + bias;
}

DEVICE void store(const LinearOne& l, int row, int j, float y) {
  float* out = l.y + static_cast<long long>(row) * l.w.n + j;
  *out = l.accumulate ? *out + y * l.scale : y;
}

// y = c ∘ (W·x + b + Σ B·u), or the residual stream's sum.
DEVICE void finish(const LinearArgs& a, const LinearOne& l, int row, int j, float y) {
  y += bias_of(l, j);
  const PartRange range = l.ranges ? l.ranges[row] : PartRange{0, 0};
  for (int p = range.first; p < range.first + range.count; ++p) {
    const Part& part = a.parts[p];
    const float* u = l.u + static_cast<long long>(row) * a.ldu + part.u0;
    const long long b = static_cast<long long>(j) * part.r;
    int t = 0;
    if (part.r % 8 == 0) {
      for (; t < part.r; t += 8) {
        const Eight eight = load_eight(part.b, part.b_kind, b + t);
        for (int e = 0; e < 8; ++e) y = fma_(load_cached(u + t + e), eight.v[e], y);
      }
    }
    for (; t < part.r; ++t) y = fma_(load_cached(u + t), load_float(part.b, part.b_kind, b + t), y);
    y = end_part(l, part, j, y);
  }
  store(l, row, j, y);
}

}  // namespace lora_edge::cuda
