// The logits after a text's last positions. They stay in the backend's memory; where the program can't read that, a row
// comes when it is asked for, and its likeliest tokens come with the pass.
#pragma once

#include <vector>

#include "backend/likeliest.h"
#include "backend/memory.h"

namespace lora_edge {

class KeptLogits {
 public:
  KeptLogits(Memory& memory, int n_vocab) : memory_(&memory), n_vocab_(static_cast<size_t>(n_vocab)) {}
  KeptLogits(const KeptLogits& other);
  KeptLogits& operator=(const KeptLogits&) = delete;
  ~KeptLogits() { memory_->release(data_); }

  int rows() const { return static_cast<int>(rows_.size()); }
  void push(const float* logits, Likeliest likeliest);  // of the backend's memory
  void cut(int n) { rows_.resize(static_cast<size_t>(n)); }
  void keep_last();
  const float* row(int i);                  // in the program's memory
  const Likeliest* likeliest(int i) const;  // nullptr: the backend doesn't say

 private:
  struct Row {
    Likeliest likeliest;
    std::vector<float> read;
  };
  float* at(size_t i) const { return data_ + i * n_vocab_; }
  void reserve(size_t rows);

  Memory* memory_;
  size_t n_vocab_, capacity_ = 0;
  float* data_ = nullptr;  // [capacity, n_vocab]
  std::vector<Row> rows_;
};

}  // namespace lora_edge
