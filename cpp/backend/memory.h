// Where a backend keeps numbers: the machine's memory or a device's.
#pragma once

#include <cstddef>

namespace lora_edge {

class Memory {
 public:
  virtual ~Memory() = default;
  virtual bool is_host() const = 0;            // the program's own memory, which it may read and write itself
  virtual void* allocate(size_t n_bytes) = 0;  // zeros, aligned to 64 bytes
  virtual void release(void* data) = 0;
  virtual void copy(void* to, const void* from, size_t n_bytes) = 0;   // within it
  virtual void write(void* to, const void* from, size_t n_bytes) = 0;  // from the program's memory
  virtual void read(void* to, const void* from, size_t n_bytes) = 0;   // into the program's memory
};

// Activations in a backend's memory. Grow and never shrink; contents are lost on growth.
class Activations {
 public:
  explicit Activations(Memory& memory) : memory_(&memory) {}
  Activations(Activations&& other) noexcept : memory_(other.memory_), data_(other.data_), size_(other.size_) {
    other.data_ = nullptr;
    other.size_ = 0;
  }
  Activations(const Activations&) = delete;
  Activations& operator=(const Activations&) = delete;
  ~Activations() { memory_->release(data_); }

  float* grow(size_t n) {
    if (n <= size_) return data_;
    memory_->release(data_);
    data_ = nullptr;
    size_ = 0;
    data_ = static_cast<float*>(memory_->allocate(n * sizeof(float)));
    size_ = n;
    return data_;
  }
  float* data() const { return data_; }
  size_t n_bytes() const { return size_ * sizeof(float); }

 private:
  Memory* memory_;
  float* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lora_edge
