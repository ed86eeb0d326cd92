// Products of a model's single weights, which training is made of: W·x forward, dY·W backward, and rows of embeddings.
#include <algorithm>
#include <climits>

#include "base/error.h"
#include "runtime/model.h"

namespace lora_edge {

LinearRows Model::linear_rows(const std::string& tensor, int n0, int n1) const {
  const int id = find_linear(tensor);
  if (id < 0) fail_input("[model] '", file_.path(), "' has no linear '", clip(tensor), "'");
  Weight w = weight(id);
  const int end = n1 < 0 ? w.n : n1;
  if (n0 < 0 || n0 >= end || end > w.n)
    fail_input("[model] '", tensor, "' has ", w.n, " rows, not rows ", n0, " to ", n1);
  w.data += static_cast<size_t>(n0) * row_bytes(w.type, static_cast<size_t>(w.k));
  w.n = end - n0;
  w.bias = nullptr;
  return {id, w};
}

void Model::check_host() const {
  if (!backend_->is_host()) fail_input("[model] products of single weights, as in training, need device='cpu'");
}

// In chunks of a pass's size, so that its buffers suffice.
void Model::linear(const std::vector<LinearRows>& weights, const float* x, size_t m, const std::vector<float*>& ys) {
  check_host();
  std::lock_guard<std::mutex> lock(mutex_);
  const AdapterSet none;
  for (size_t i = 0; i < m; i += kMaxRows) {
    const int rows = static_cast<int>(std::min<size_t>(kMaxRows, m - i));
    std::vector<Linear> linears;
    for (size_t l = 0; l < weights.size(); ++l) {
      const Weight& w = weights[l].weight;
      linears.push_back({&w, weights[l].id, ys[l] + i * static_cast<size_t>(w.n), false});
    }
    backend_->linear(linears, x + i * static_cast<size_t>(weights[0].weight.k), rows, {{0, rows, &none, 0}});
  }
}

void Model::input_gradient(const std::vector<OutputGradient>& outputs, size_t m, float* dx) {
  if (m > INT_MAX / 2) fail_input("[model] ", m, " rows are more than a product takes");
  check_host();
  std::lock_guard<std::mutex> lock(mutex_);
  backend_->input_gradient(outputs, static_cast<int>(m), dx);
}

Weight Model::file_matrix(const std::string& tensor) const {
  const GgufTensor* t = file_.find_tensor(tensor);
  if (!t && tensor == "output.weight" && tied()) t = file_.find_tensor("token_embd.weight");
  if (!t) fail_input("[model] '", file_.path(), "' has no tensor '", clip(tensor), "'");
  if (t->shape.size() != 2) fail_input("[model] tensor '", tensor, "' is no matrix");
  const DType type = file_.dtype(*t);
  if (std::max(t->shape[0], t->shape[1]) > INT_MAX) fail_input("[model] tensor '", tensor, "' is too large");
  return {type, t->data, static_cast<int>(t->shape[0]), static_cast<int>(t->shape[1]), nullptr};
}

void Model::rows(const Weight& w, const std::vector<int>& ids, float* out) {
  check_host();
  std::lock_guard<std::mutex> lock(mutex_);
  const AdapterSet none;
  const int m = static_cast<int>(ids.size());
  backend_->embed(w, embedding_id(config_), ids.data(), {{0, m, &none, 0}}, m, out);
}

}  // namespace lora_edge
