// One piece of memory for much that lives and dies together and is read as a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace lora_edge {

// Pieces of it are handed out in order, each aligned to a cache line; the system is asked for huge pages, which a
// stream through many megabytes needs fewer of its address translations for. Untouched memory costs nothing.
class Arena {
 public:
  explicit Arena(size_t n_bytes)
      : align_(n_bytes >= kHugePage ? kHugePage : kLine), size_((n_bytes + align_ - 1) / align_ * align_) {
    data_ = static_cast<uint8_t*>(::operator new(size_, std::align_val_t{align_}));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (align_ == kHugePage) ::madvise(data_, size_, MADV_HUGEPAGE);  // advice: it works without
#endif
  }
  ~Arena() { ::operator delete(data_, std::align_val_t{align_}); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // What n bytes take of an arena.
  static size_t rounded(size_t n) { return (n + kLine - 1) / kLine * kLine; }
  // The next n bytes. The caller has asked for enough.
  uint8_t* take(size_t n) {
    uint8_t* p = data_ + used_;
    used_ += rounded(n);
    return p;
  }

 private:
  static constexpr size_t kLine = 64, kHugePage = size_t{2} << 20;
  size_t align_, size_, used_ = 0;
  uint8_t* data_;
};

}  // namespace lora_edge
