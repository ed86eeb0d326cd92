#include <algorithm>

#include "base/error.h"
#include "runtime/model.h"

namespace lora_edge {

Sequence::Sequence(std::shared_ptr<Model> model, AdapterSet adapters)
    : model_(std::move(model)),
      adapters_(std::move(adapters)),
      kv_(*model_->backend_, model_->kv_, model_->kv_bytes()),
      logits_(*model_->backend_, model_->config().n_vocab) {}

void Sequence::set_adapters(AdapterSet adapters) {
  std::lock_guard<std::mutex> lock(model_->mutex_);
  adapters_.swap(adapters);
  logits_.keep_last();
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
  const int left = std::max(0, logits_.rows() - (length() - n));
  kv_.truncate(n);
  logits_.cut(left);
}

int Sequence::row_of(int n) const {
  const int row = n - 1 - (length() - logits_.rows());
  return row < logits_.rows() ? std::max(row, -1) : -1;
}

const float* Sequence::logits(int n) {
  std::unique_lock<std::mutex> lock(model_->mutex_, std::defer_lock);
  if (!model_->backend_->is_host()) lock.lock();  // they come over the passes' stream
  const int row = row_of(n);
  return row < 0 ? nullptr : logits_.row(row);
}

const Likeliest* Sequence::likeliest(int n) const {
  const int row = row_of(n);
  return row < 0 ? nullptr : logits_.likeliest(row);
}

}  // namespace lora_edge
