#include "runtime/dora.h"

#include <algorithm>

#include "kernels/kernels.h"

namespace lora_edge {
namespace {

constexpr size_t kRows = 64;  // of W at a time

using Floats = std::vector<float>;

Floats rows_of(DType type, const void* data, size_t first, size_t count, size_t k) {
  Floats out(count * k);
  const uint8_t* from = static_cast<const uint8_t*>(data) + first * row_bytes(type, k);
  for (size_t i = 0; i < count; ++i, from += row_bytes(type, k))
    active_table().dequantize[int(type)](from, out.data() + i * k, static_cast<int>(k));
  return out;
}

// x [m, k] · a [r, k]ᵀ
Floats times(const Floats& x, const Floats& a, size_t k) {
  const size_t m = x.size() / k, r = a.size() / k;
  Floats out(m * r);
  const std::unique_ptr<uint8_t, void (*)(uint8_t*)> scratch(
      static_cast<uint8_t*>(::operator new(kScratchBytes, std::align_val_t{64})),
      [](uint8_t* p) { ::operator delete(p, std::align_val_t{64}); });
  active_table().matmul[int(DType::f32)]({a.data(), k * sizeof(float), static_cast<int>(k), static_cast<int>(m),
                                          x.data(), k, nullptr, nullptr, nullptr, out.data(), r, 0, static_cast<int>(r),
                                          scratch.get()});
  return out;
}

// Per output: the sum of its squares in B·A, from G = A·Aᵀ [r, r], and that of the products with W, from u = W·Aᵀ.
void low_rank_sums(const float* b, const double* u, const std::vector<double>& gram, size_t r, LoraExtra& extra) {
  double products = 0, squares = 0;
  for (size_t t = 0; t < r; ++t) {
    products += b[t] * u[t];
    for (size_t s = 0; s < r; ++s) squares += double(b[t]) * b[s] * gram[t * r + s];
  }
  extra.products.push_back(products);
  extra.low_rank_squares.push_back(squares);
}

void measure_linear(const Weight& w, const Floats& a, const Floats& b, LoraExtra& extra) {
  const size_t n = static_cast<size_t>(w.n), k = static_cast<size_t>(w.k), r = a.size() / k;
  const Floats square = times(a, a, k);
  const std::vector<double> gram(square.begin(), square.end());
  for (size_t at = 0; at < n; at += kRows) {
    const Floats rows = rows_of(w.type, w.data, at, std::min(kRows, n - at), k), u = times(rows, a, k);
    for (size_t i = 0; i * k < rows.size(); ++i) {
      double sum = 0;
      for (size_t j = 0; j < k; ++j) sum += double(rows[i * k + j]) * rows[i * k + j];
      extra.squares.push_back(sum);
      const std::vector<double> row(&u[i * r], &u[i * r] + r);
      low_rank_sums(&b[(at + i) * r], row.data(), gram, r, extra);
    }
  }
}

void measure_embedding(const Weight& w, const Floats& a, const Floats& b, LoraExtra& extra) {
  const size_t n = static_cast<size_t>(w.n), k = static_cast<size_t>(w.k), r = a.size() / n;
  std::vector<double> gram(r * r), u(k * r);
  extra.squares.assign(k, 0.0);
  for (size_t at = 0; at < n; at += kRows) {
    const size_t count = std::min(kRows, n - at);
    const Floats rows = rows_of(w.type, w.data, at, count, k);
    Floats turned(r * count), sums(r * k);  // A of these rows, transposed; its product with them
    for (size_t i = 0; i < count; ++i)
      for (size_t t = 0; t < r; ++t) {
        turned[t * count + i] = a[(at + i) * r + t];
        for (size_t s = 0; s < r; ++s) gram[t * r + s] += double(a[(at + i) * r + t]) * a[(at + i) * r + s];
      }
    active_table().lowrank[int(DType::f32)]({rows.data(), static_cast<int>(k), static_cast<int>(count),
                                             static_cast<int>(r), turned.data(), count, sums.data(), k, 0,
                                             static_cast<int>(k)});
    for (size_t j = 0; j < k; ++j) {
      for (size_t i = 0; i < count; ++i) extra.squares[j] += double(rows[i * k + j]) * rows[i * k + j];
      for (size_t t = 0; t < r; ++t) u[j * r + t] += sums[t * k + j];
    }
  }
  for (size_t j = 0; j < k; ++j) low_rank_sums(&b[j * r], &u[j * r], gram, r, extra);
}

}  // namespace

void measure_rows(const Weight& w, const Factor& a, const Factor& b, bool embedding, LoraExtra& extra) {
  const Floats wide = rows_of(a.type, a.data, 0, a.shape[0], a.shape[1]);
  const Floats tall = rows_of(b.type, b.data, 0, b.shape[0], b.shape[1]);
  embedding ? measure_embedding(w, wide, tall, extra) : measure_linear(w, wide, tall, extra);
}

}  // namespace lora_edge
