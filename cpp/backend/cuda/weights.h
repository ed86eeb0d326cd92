// Weights and adapters as a device keeps them: made from the file's bytes, once.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/context.h"
#include "backend/cuda/kernels/args.h"

namespace lora_edge::cuda {

class Weights {
 public:
  explicit Weights(std::shared_ptr<Context> context) : context_(std::move(context)) {}

  // The device's copy, made at the first call for this data. The data outlives this.
  Matrix matrix(const Weight& w);
  const float* floats(const float* data, size_t n);  // nullptr: nullptr
  size_t n_bytes() const { return n_bytes_; }

 private:
  void* put(const void* data, size_t n_bytes);

  std::shared_ptr<Context> context_;
  std::unordered_map<const void*, std::unique_ptr<DeviceMemory>> kept_;
  std::unordered_map<const void*, Matrix> matrices_;
  size_t n_bytes_ = 0;
};

// An adapter's factors on a device, without what differs between rows; lives as long as the adapter.
class AdapterCopy {
 public:
  AdapterCopy(const std::shared_ptr<Context>& context, const Adapter& adapter, int n_ids);
  const Part& at(int id) const { return parts_[size_t(id)]; }
  // What the adapter brings in place of a weight; nullptr: nothing.
  const Matrix* whole(int id) const;

 private:
  std::vector<Part> parts_;
  std::unordered_map<int, Matrix> wholes_;
  Weights own_;
  std::vector<std::unique_ptr<DeviceMemory>> memory_;
};

}  // namespace lora_edge::cuda
