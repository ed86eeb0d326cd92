// What training needs beside a forward pass: the gradient of linears' common input, dX = Σ dYᵢ·Wᵢ, straight from the
// weights as they lie in the file.
//
// Weights of one scale per block are multiplied in 16 bits, a span of W's rows at a time (GradientArgs). Of others some
// rows and columns at a time become floats in a thread's scratch, a panel [rows, columns], which is what the low-rank
// update takes as its transposed B, with dY as u. Each element of dX is one sum over the weights as given and the rows,
// or spans of rows, of each: its bits depend on nothing else.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace lora_edge {

class InputGradient {
 public:
  InputGradient(const Table& table, ThreadPool& pool) : table_(table), pool_(pool) {}

  // dx [m, k] of outputs that share it. scratch: kScratchBytes for each thread, 64-byte aligned.
  void run(const std::vector<OutputGradient>& outputs, int m, float* dx, uint8_t* scratch) const;

 private:
  // Rows [i0, i1) and columns [c0, c1) of dx.
  struct Task {
    int i0, i1, c0, c1;
  };
  // Rows and columns of a task.
  struct Grid {
    int rows, columns;
  };
  Grid grid(int m, int k, int unit) const;
  void add_words(const OutputGradient& o, const Task& task, float* dx, uint8_t* scratch) const;
  void add_floats(const OutputGradient& o, const Task& task, int unit, float* dx, uint8_t* scratch) const;
  void add_panel(const float* panel, size_t ld, int depth, const float* dy, size_t ldy, const Task& task, float* dx,
                 size_t ldx) const;

  const Table& table_;
  ThreadPool& pool_;
};

}  // namespace lora_edge
