// What a pass's rows are, as tables on the device: where each stands, which rows attend together, and its adapters'
// parts in every linear.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/weights.h"

namespace lora_edge::cuda {

// Grows and is never shrunk; contents are lost on growth. Whole pages, so that a table that grows by a line keeps its
// address, which launches have as an argument.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::shared_ptr<Context> context) : context_(std::move(context)) {}
  template <class T>
  T* get(size_t n) {
    if (n > 0 && (!memory_ || memory_->n_bytes() < n * sizeof(T))) {
      memory_.reset();
      memory_ = std::make_unique<DeviceMemory>(context_, (n * sizeof(T) + kPage - 1) / kPage * kPage);
    }
    return memory_ ? static_cast<T*>(memory_->data()) : nullptr;
  }
  size_t n_bytes() const { return memory_ ? memory_->n_bytes() : 0; }

 private:
  static constexpr size_t kPage = 4096;  // bytes
  std::shared_ptr<Context> context_;
  std::unique_ptr<DeviceMemory> memory_;
};

// Parts of the rows of some groups, for one linear or for all.
struct PartTable {
  const Part* parts = nullptr;
  const PartRange* ranges = nullptr;  // [ids, m]; nullptr: no row has parts
  int m = 0, first_id = 0, ldu = 0;

  const PartRange* of(int id) const { return ranges ? ranges + size_t(id - first_id) * size_t(m) : nullptr; }
};

class PassTables {
 public:
  explicit PassTables(std::shared_ptr<Context> context)
      : context_(context),
        places_memory_(context),
        blocks_memory_(context),
        parts_memory_(context),
        some_memory_(context) {}

  void begin(const Config& c, const std::vector<RowPlace>& places, const std::vector<RowGroup>& groups);

  const Place* places() const { return places_; }
  const RowBlock* blocks() const { return blocks_; }
  int n_blocks() const { return n_blocks_; }
  int most_queries() const { return most_queries_; }
  int n_spans() const { return n_spans_; }
  // The parts that these groups' adapters have in linear `id`.
  PartTable parts(const Config& c, const std::vector<RowGroup>& groups, int id);
  const AdapterCopy& copy_of(Adapter& adapter, int n_ids);
  size_t n_bytes() const {
    return places_memory_.n_bytes() + blocks_memory_.n_bytes() + parts_memory_.n_bytes() + some_memory_.n_bytes();
  }

 private:
  PartTable make_parts(const Config& c, const std::vector<RowGroup>& groups, int first_id, int n_ids,
                       DeviceBuffer& memory);
  const float* scales_of(const ActiveAdapter& active, int id);

  struct Scales {
    std::weak_ptr<const RowScales> owner;
    std::map<int, std::unique_ptr<DeviceMemory>> by_id;
  };

  std::shared_ptr<Context> context_;
  DeviceBuffer places_memory_, blocks_memory_, parts_memory_, some_memory_;
  const Place* places_ = nullptr;
  const RowBlock* blocks_ = nullptr;
  int n_blocks_ = 0, most_queries_ = 0, n_spans_ = 0;
  std::vector<RowGroup> groups_;  // that all_ is of
  PartTable all_;
  std::map<const RowScales*, Scales> scales_;
};

}  // namespace lora_edge::cuda
