#include "runtime/kept_logits.h"

#include <utility>

namespace lora_edge {

KeptLogits::KeptLogits(const KeptLogits& other) : KeptLogits(*other.memory_, static_cast<int>(other.n_vocab_)) {
  reserve(other.rows_.size());
  if (data_) memory_->copy(data_, other.data_, other.rows_.size() * n_vocab_ * sizeof(float));
  rows_ = other.rows_;
}

void KeptLogits::reserve(size_t rows) {
  if (rows <= capacity_) return;
  auto* data = static_cast<float*>(memory_->allocate(rows * n_vocab_ * sizeof(float)));
  try {
    if (!rows_.empty()) memory_->copy(data, data_, rows_.size() * n_vocab_ * sizeof(float));
  } catch (...) {
    memory_->release(data);
    throw;
  }
  memory_->release(data_);
  data_ = data;
  capacity_ = rows;
}

void KeptLogits::push(const float* logits, Likeliest likeliest) {
  const size_t n = rows_.size();
  if (n == capacity_) reserve(n + n / 2 + 1);
  memory_->copy(at(n), logits, n_vocab_ * sizeof(float));
  rows_.push_back({std::move(likeliest), {}});
}

void KeptLogits::keep_last() {
  if (rows_.size() < 2) return;
  memory_->copy(data_, at(rows_.size() - 1), n_vocab_ * sizeof(float));
  std::swap(rows_.front(), rows_.back());
  rows_.resize(1);
}

const float* KeptLogits::row(int i) {
  const auto r = static_cast<size_t>(i);
  if (memory_->is_host()) return at(r);
  std::vector<float>& read = rows_[r].read;
  if (read.empty()) {
    read.resize(n_vocab_);
    memory_->read(read.data(), at(r), n_vocab_ * sizeof(float));
  }
  return read.data();
}

const Likeliest* KeptLogits::likeliest(int i) const {
  const Likeliest& found = rows_[static_cast<size_t>(i)].likeliest;
  return found.candidates.empty() ? nullptr : &found;
}

}  // namespace lora_edge
