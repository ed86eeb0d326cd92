// dX = Σ dYᵢ·Wᵢ by a table and a pool, against the one order of sums that is allowed: that of `ref` for weights it
// multiplies in 16 bits, else plain loops.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "backend/input_gradient.h"
#include "base/error.h"
#include "guarded.h"
#include "random_input.h"

namespace lora_edge {

// want [m, k] += dy [m, n] · W.
inline void add_gradient(const Table& ref, DType type, const uint8_t* w, size_t stride, int n, const float* dy, int m,
                         int k, float* want) {
  const size_t rows = static_cast<size_t>(m), outputs = static_cast<size_t>(n), depth = static_cast<size_t>(k);
  const auto gradient = ref.gradient[static_cast<int>(type)];
  for (int t = 0; gradient && t < n; t += kGradientSpan) {
    const int span = std::min(kGradientSpan, n - t);
    std::vector<int16_t> q(rows * kGradientSpan);
    std::vector<float> d(rows);
    for (size_t a = 0; a < rows; ++a) d[a] = ref.quantize_q16(dy + a * outputs + t, span, q.data() + a * kGradientSpan);
    gradient({w + static_cast<size_t>(t) * stride, stride, span, k, m, q.data(), d.data(), want, depth});
  }
  std::vector<float> row(depth);
  for (size_t j = 0; !gradient && j < outputs; ++j) {
    ref.dequantize[static_cast<int>(type)](w + j * stride, row.data(), k);
    for (size_t a = 0; a < rows; ++a)
      for (size_t c = 0; c < depth; ++c)
        want[a * depth + c] = std::fmaf(dy[a * outputs + j], row[c], want[a * depth + c]);
  }
}

inline std::string input_gradient_case(Random& r, const Table& ref, const Table& t) {
  constexpr int kBlocks[] = {1, kBlock, kSuper};  // weights of a region have depths in common
  const int unit = r.pick(kBlocks);
  const int k = unit == 1 ? r.size(200) : unit == kBlock ? kBlock * r.size(6) : kSuper * r.range(1, 2);
  const int m = r.chance(10) ? r.range(250, 300) : r.size(60);
  const size_t depth = static_cast<size_t>(k), rows = static_cast<size_t>(m);

  std::vector<Weight> weights;
  std::vector<Guarded<uint8_t>> bytes;
  std::vector<Guarded<float>> dys;
  Guarded<float> want(rows * depth);
  for (float& v : want) v = 0.0f;
  for (int i = r.range(1, 3); i > 0; --i) {
    DType type = static_cast<DType>(r.range(0, kDTypes - 1));
    while (unit % static_cast<int>(block_size(type).elements)) type = static_cast<DType>(r.range(0, kDTypes - 1));
    const int n = unit == 1 && r.chance(8) ? r.range(500, 600) : r.size(m > 200 ? 140 : 300);
    const size_t stride = row_bytes(type, depth), outputs = static_cast<size_t>(n);
    bytes.emplace_back(stride * outputs);
    for (size_t j = 0; j < outputs; ++j) {
      uint8_t* to = bytes.back().data() + j * stride;
      is_quantised(type) ? fill_blocks(r, type, to, depth) : fill_elements(r, type, to, depth);
    }
    bytes.back().freeze();
    dys.emplace_back(rows * outputs);
    fill_floats(r, dys.back());
    const float* dy = dys.back().freeze().data();
    weights.push_back({type, bytes.back().data(), n, k, nullptr});
    add_gradient(ref, type, bytes.back().data(), stride, n, dy, m, k, want.data());
  }

  std::vector<OutputGradient> outputs;
  for (size_t i = 0; i < weights.size(); ++i) outputs.push_back({&weights[i], dys[i].data()});
  ThreadPool pool(r.range(1, 3));
  const Guarded<uint8_t> scratch(static_cast<size_t>(pool.size()) * kScratchBytes);
  const Guarded<float> dx(rows * depth);
  for (float& v : dx) v = 1.0f;
  InputGradient(t, pool).run(outputs, m, dx.data(), scratch.data());
  for (size_t i = 0; i < dx.size(); ++i)
    if (f32_to_bits(dx[i]) != f32_to_bits(want[i]) && !(std::isnan(dx[i]) && std::isnan(want[i])))
      return concat("dx[", i / depth, ", ", i % depth, "] is ", dx[i], ", should be ", want[i], " (m ", m, ", k ", k,
                    ", ", outputs.size(), " weights, ", pool.size(), " threads)");
  return "";
}

}  // namespace lora_edge
