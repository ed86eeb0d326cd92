// What adapters add to linears: u = scale · A·x of every group of rows, and B·u over a range of outputs.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "kernels/kernels.h"

namespace lora_edge {

// One adapter's part in one linear for the rows of one group: u = scale · A·x lies in columns [u0, u0 + r) of the u
// rows.
struct LowRankPart {
  int linear;
  RowGroup group;
  const LoraWeight* weight;
  float scale;
  int u0;
  const float* row_scales;  // DoRA's, or nullptr
};

// The weight of a group's rows: the base's, or what one of its adapters brings in its place.
const Weight& weight_of(const Weight& base, int id, const RowGroup& group);

// Whether an adapter adds B(A·x) to a group's rows.
bool works(const ActiveAdapter& active, const LoraWeight& weight, const RowGroup& group);

// c of DoRA for a linear, or nullptr.
const float* row_scales(const ActiveAdapter& active, int id);

class LowRank {
 public:
  // Rows [begin, end) and ranks [r0, r1) of a part's u.
  struct Task {
    const LowRankPart* part;
    int begin, end, r0, r1;
  };

  explicit LowRank(const Table& table) : table_(table) {}

  // Finds the parts that adapters have in these linears, and cuts u of all of them into tasks. Returns the columns of
  // u.
  int plan(const std::vector<Linear>& linears, const std::vector<RowGroup>& groups, int threads);
  const std::vector<LowRankPart>& parts() const { return parts_; }
  const std::vector<Task>& tasks() const { return tasks_; }

  // A task's part of u [m, ldu], with x [m, k] as it is (not quantised). scratch: kScratchBytes, as for `output`.
  void input(const Task& task, const float* x, int k, float* u, int ldu, void* scratch) const;
  // y [m, n] += B·u over the outputs [n0, n1), panel by panel.
  void output(const LoraWeight& weight, int n, const float* u, size_t ldu, int m, float* y, int n0, int n1,
              void* scratch) const;
  // What follows the update of a part's rows of y [m, n], in its outputs [n0, n1): the bias of B, and DoRA's scales of
  // all but the linear's own bias.
  static void finish(const LowRankPart& p, const float* bias, float* y, int n, int n0, int n1);

 private:
  const Table& table_;
  std::vector<LowRankPart> parts_;
  std::vector<Task> tasks_;
};

}  // namespace lora_edge
