#include <algorithm>

#include "base/error.h"
#include "runtime/model.h"

namespace lora_edge {

Sequence::Sequence(std::shared_ptr<Model> model, AdapterSet adapters)
    : model_(std::move(model)),
      adapters_(std::move(adapters)),
      kv_(*model_->backend_, model_->kv_, model_->kv_bytes()) {}

void Sequence::set_adapters(AdapterSet adapters) {
  std::lock_guard<std::mutex> lock(model_->mutex_);
  adapters_.swap(adapters);
  if (kept_logits() > 1) logits_.erase(logits_.begin(), logits_.end() - model_->config().n_vocab);
}

void Sequence::set_starts(const std::vector<int>& starts) {
  std::lock_guard<std::mutex> lock(model_->mutex_);
  if (starts.size() != adapters_.size())
    fail_input("[sequence] ", starts.size(), " starts for ", adapters_.size(), " adapters");
  for (size_t i = 0; i < starts.size(); ++i) adapters_[i].start = starts[i];
}

std::shared_ptr<Sequence> Sequence::fork() const {
  std::lock_guard<std::mutex> lock(model_->mutex_);
  return std::shared_ptr<Sequence>(new Sequence(*this));
}

void Sequence::truncate(int n) {
  std::lock_guard<std::mutex> lock(model_->mutex_);
  if (n < 0 || n > length()) fail_input("[sequence] can't truncate ", length(), " positions to ", n);
  if (n == length()) return;
  const int left = std::max(0, kept_logits() - (length() - n));
  kv_.truncate(n);
  logits_.resize(static_cast<size_t>(left) * static_cast<size_t>(model_->config().n_vocab));
}

int Sequence::kept_logits() const {
  return static_cast<int>(logits_.size() / static_cast<size_t>(model_->config().n_vocab));
}

const float* Sequence::logits(int n) const {
  const int row = n - 1 - (length() - kept_logits());
  if (row < 0 || row >= kept_logits()) return nullptr;
  return logits_.data() + static_cast<size_t>(row) * static_cast<size_t>(model_->config().n_vocab);
}

}  // namespace lora_edge
