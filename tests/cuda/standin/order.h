// In what order blocks, warps and lanes run. LORA_EDGE_STANDIN_ORDER, read at each launch: `forward`, `reverse`, or a
// number that seeds a shuffled order, which is 1 where nothing is said.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

#include "failure.h"

namespace lora_edge::standin {

class Order {
 public:
  // A shuffled order goes on from launch to launch, until another seed is asked for.
  void read_environment() {
    const char* value = std::getenv("LORA_EDGE_STANDIN_ORDER");
    const std::string text = value && *value ? value : "1";
    if (text == text_) return;
    char* end = nullptr;
    state_ = std::strtoull(text.c_str(), &end, 10) * 2 + 1;
    kind_ = text == "forward" ? kForward : text == "reverse" ? kReverse : kShuffled;
    if (kind_ == kShuffled && *end)
      fail(CUDA_ERROR_UNKNOWN, "LORA_EDGE_STANDIN_ORDER is '", text, "': forward, reverse or a number is wanted");
    text_ = text;
  }

  // Fills items with 0 .. n-1.
  template <class T>
  void permute(T* items, size_t n) {
    for (size_t i = 0; i < n; ++i) items[i] = static_cast<T>(kind_ == kReverse ? n - 1 - i : i);
    if (kind_ != kShuffled) return;
    for (size_t i = n; i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

  // Which of n ascending items comes next, where the last one was at `last` and may be at its end (n: none). A shuffled
  // order stays with it every other time, so that it gets ahead of the others by uneven steps; the plain orders stay
  // with it until it can't go on, which is as far ahead as it can get.
  size_t next(size_t n, size_t last) {
    if (kind_ == kForward) return 0;
    if (kind_ == kReverse) return n - 1;
    return last < n && below(2) ? last : below(n);
  }

 private:
  // A random number below n: xorshift's high half.
  size_t below(size_t n) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<size_t>((state_ >> 32) * n >> 32);
  }

  enum { kForward, kReverse, kShuffled } kind_ = kForward;
  std::string text_;
  uint64_t state_ = 1;
};

}  // namespace lora_edge::standin
