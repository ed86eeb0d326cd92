// Arrays that lie right up against an unreadable page, so that reading past an end crashes.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace lora_edge {

// `count` elements between two unreadable pages. `at_end`: the last byte touches the page behind, else the first
// byte touches the page in front.
template <class T>
class Guarded {
 public:
  explicit Guarded(size_t count, bool at_end = true) : count_(count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    body_ = (count * sizeof(T) + page - 1) / page * page;
    size_ = body_ + 2 * page;
    void* p = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || (body_ && mprotect(static_cast<uint8_t*>(p) + page, body_, PROT_READ | PROT_WRITE))) {
      std::perror("mmap");
      std::exit(1);
    }
    map_ = static_cast<uint8_t*>(p);
    base_ = map_ + page;
    data_ = reinterpret_cast<T*>(at_end ? base_ + body_ - count * sizeof(T) : base_);
  }
  ~Guarded() {
    if (map_) munmap(map_, size_);
  }
  Guarded(Guarded&& o) noexcept
      : count_(o.count_), body_(o.body_), size_(o.size_), map_(o.map_), base_(o.base_), data_(o.data_) {
    o.map_ = nullptr;
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  Guarded& operator=(Guarded&&) = delete;

  // From here on writing crashes too: for inputs.
  Guarded& freeze() {
    if (body_) mprotect(base_, body_, PROT_READ);
    return *this;
  }

  T* data() const { return data_; }
  size_t size() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }
  T& operator[](size_t i) const { return data_[i]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + count_; }

 private:
  size_t count_, body_, size_;
  uint8_t *map_, *base_;
  T* data_;
};

}  // namespace lora_edge
