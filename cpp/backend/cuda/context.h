// One GPU as this process uses it: its context, a stream, the kernels that its driver took, and memory.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "backend/cuda/driver.h"
#include "backend/cuda/launches.h"

namespace lora_edge::cuda {

struct DeviceInfo {
  int index;
  std::string name;
  int capability;  // 87: 8.7
  size_t n_bytes;  // of memory
  int processors;
  bool integrated;  // shares its memory with the CPU
};

// Those that the driver has; none where there is no driver.
std::vector<DeviceInfo> devices();

class Context {
 public:
  // RuntimeError in Python: no driver, no such device, or none of the kernels' images will do.
  explicit Context(int index);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const DeviceInfo& info() const { return info_; }
  void use() const;  // by the calling thread
  // RuntimeError with the numbers where memory is short.
  void* allocate(size_t n_bytes);
  void release(void* data) noexcept;
  void copy_in(void* to, const void* from, size_t n_bytes);
  void copy_out(void* to, const void* from, size_t n_bytes);  // waits
  void copy_within(void* to, const void* from, size_t n_bytes);
  void fill_zeros(void* data, size_t n_bytes);
  void wait();
  bool has(const std::string& kernel) { return find(kernel).handle != nullptr; }
  // Blocks of `threads`; shared: bytes of dynamic shared memory. It runs before what is asked of the device's memory
  // after it, and errors come then.
  template <class Args>
  void launch(const char* kernel, const Args& args, Grid grid, int threads = 128, size_t shared = 0) {
    launch_with(kernel, &args, sizeof(Args), grid, threads, shared);
  }

 private:
  void launch_with(const char* kernel, const void* args, size_t n_bytes, Grid grid, int threads, size_t shared);
  // After what was launched, calls the driver, which returns its result.
  template <class Call>
  void in_order(const char* name, const Call& call);
  void load_images();
  struct Function {
    Handle handle;  // nullptr: no image that was taken has it
    size_t shared;  // bytes of dynamic shared memory that it may have
  };
  Function& find(const std::string& kernel);

  const Driver* driver_;
  DeviceInfo info_;
  Handle context_ = nullptr, stream_ = nullptr;
  std::vector<Handle> modules_;
  std::unordered_map<std::string, Function> functions_;
  std::mutex mutex_;  // of the stream: an adapter's memory may be freed by any thread
  std::unique_ptr<Launches> launches_;
};

// Memory of a device that something else holds; frees it in the end.
class DeviceMemory {
 public:
  DeviceMemory(std::shared_ptr<Context> context, size_t n_bytes)
      : context_(std::move(context)), data_(context_->allocate(n_bytes)), n_bytes_(n_bytes) {}
  ~DeviceMemory() { context_->release(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  void* data() const { return data_; }
  size_t n_bytes() const { return n_bytes_; }

 private:
  std::shared_ptr<Context> context_;
  void* data_;
  size_t n_bytes_;
};

}  // namespace lora_edge::cuda
