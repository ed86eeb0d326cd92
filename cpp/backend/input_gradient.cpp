#include "backend/input_gradient.h"

#include <algorithm>

namespace lora_edge {
namespace {

// Columns of a panel are whole blocks of the weights: 64, or a super-block.
constexpr int kColumns = 64;
// A panel stays in L2. Rows of more columns are padded: 1 KiB apart they would share few sets of L1.
constexpr int kPanelFloats = 32 * 1024;
constexpr int kPad = 16;
static_assert((kPanelFloats / kColumns) * (kColumns + kPad) * sizeof(float) <= kScratchBytes, "a panel fits");

// A tile of dx stays in L1 while kDepth rows of a panel at a time pass, which are there for all of the tile's rows.
constexpr int kTileRows = 48, kDepth = 64;

// Tasks have whole tiles of rows of any table. What a task makes for itself costs about that of so many more rows and
// columns: the weights' integers or floats, and dY's.
constexpr int kUnitRows = 12, kMostRows = 288, kWeightsCost = 4, kGradientCost = 16;
static_assert(kMostRows * (kGradientSpan * sizeof(int16_t) + sizeof(float)) <= kScratchBytes, "a task's dY fits");

constexpr int parts_of(int n, int size) { return (n + size - 1) / size; }

}  // namespace

void InputGradient::run(const std::vector<OutputGradient>& outputs, int m, float* dx, uint8_t* scratch) const {
  if (m == 0) return;
  const int k = outputs[0].weight->k;
  int unit = kColumns;
  for (const OutputGradient& o : outputs) unit = std::max(unit, static_cast<int>(block_size(o.weight->type).elements));
  const Grid task = grid(m, k, unit);
  const int across = parts_of(k, task.columns);
  pool_.run(across * parts_of(m, task.rows), [&](int index, int thread) {
    const int i = index / across * task.rows, c = index % across * task.columns;
    uint8_t* own = scratch + static_cast<size_t>(thread) * kScratchBytes;
    const Task part{i, std::min(i + task.rows, m), c, std::min(c + task.columns, k)};
    const size_t ldx = static_cast<size_t>(k);
    for (int r = part.i0; r < part.i1; ++r)
      std::fill_n(dx + static_cast<size_t>(r) * ldx + part.c0, part.c1 - part.c0, 0.0f);
    for (const OutputGradient& o : outputs)
      table_.gradient[static_cast<int>(o.weight->type)] ? add_words(o, part, dx, own)
                                                        : add_floats(o, part, unit, dx, own);
  });
}

// The grid whose busiest thread has least to do.
InputGradient::Grid InputGradient::grid(int m, int k, int unit) const {
  const int units = parts_of(m, kUnitRows), columns = parts_of(k, unit);
  Grid best{};
  int64_t least = INT64_MAX;
  for (int down = parts_of(m, kMostRows); down <= units; ++down)
    for (int across = 1; across <= columns; ++across) {
      const Grid task{parts_of(units, down) * kUnitRows, parts_of(columns, across) * unit};
      const int tasks = parts_of(m, task.rows) * parts_of(k, task.columns);
      const int64_t cost = static_cast<int64_t>(parts_of(tasks, pool_.size())) *
                           (std::min(task.rows, m) + kWeightsCost) * (std::min(task.columns, k) + kGradientCost);
      if (cost < least) least = cost, best = task;
    }
  return best;
}

// dx += dy·W, by spans.
void InputGradient::add_words(const OutputGradient& o, const Task& task, float* dx, uint8_t* scratch) const {
  const Weight& w = *o.weight;
  const int rows = task.i1 - task.i0;
  auto* const q = reinterpret_cast<int16_t*>(scratch);
  auto* const d = reinterpret_cast<float*>(q + static_cast<size_t>(rows) * kGradientSpan);
  const size_t k = static_cast<size_t>(w.k), stride = row_bytes(w.type, k), n = static_cast<size_t>(w.n);
  const size_t first = row_bytes(w.type, static_cast<size_t>(task.c0));
  for (int t = 0; t < w.n; t += kGradientSpan) {
    const int depth = std::min(kGradientSpan, w.n - t);
    for (int r = 0; r < rows; ++r)
      d[r] = table_.quantize_q16(o.dy + static_cast<size_t>(task.i0 + r) * n + t, depth,
                                 q + static_cast<size_t>(r) * kGradientSpan);
    table_.gradient[static_cast<int>(w.type)]({w.data + static_cast<size_t>(t) * stride + first, stride, depth,
                                               task.c1 - task.c0, rows, q, d,
                                               dx + static_cast<size_t>(task.i0) * k + task.c0, k});
  }
}

// dx += dy·W, by panels of floats.
void InputGradient::add_floats(const OutputGradient& o, const Task& task, int unit, float* dx, uint8_t* scratch) const {
  const Weight& w = *o.weight;
  const size_t k = static_cast<size_t>(w.k), stride = row_bytes(w.type, k);
  const int most = kPanelFloats / unit;
  auto* const panel = reinterpret_cast<float*>(scratch);
  for (int t = 0; t < w.n; t += most) {
    const int depth = std::min(most, w.n - t);
    for (int c = task.c0; c < task.c1; c += unit) {
      const Task part{task.i0, task.i1, c, std::min(c + unit, task.c1)};
      const int columns = part.c1 - part.c0;
      const size_t ld = static_cast<size_t>(columns > kColumns ? columns + kPad : columns);
      const size_t first = row_bytes(w.type, static_cast<size_t>(c));
      for (int r = 0; r < depth; ++r)
        table_.dequantize[static_cast<int>(w.type)](w.data + static_cast<size_t>(t + r) * stride + first,
                                                    panel + static_cast<size_t>(r) * ld, columns);
      add_panel(panel, ld, depth, o.dy + t, static_cast<size_t>(w.n), part, dx, k);
    }
  }
}

// dx += dy [m, depth] · panel [depth, columns]
void InputGradient::add_panel(const float* panel, size_t ld, int depth, const float* dy, size_t ldy, const Task& task,
                              float* dx, size_t ldx) const {
  const int columns = task.c1 - task.c0;
  for (int i = task.i0; i < task.i1; i += kTileRows) {
    const int rows = std::min(kTileRows, task.i1 - i);
    const size_t row = static_cast<size_t>(i);
    for (int c = 0; c < columns; c += kColumns)
      for (int t = 0; t < depth; t += kDepth)
        table_.lowrank[static_cast<int>(DType::f32)](
            {panel + static_cast<size_t>(t) * ld, static_cast<int>(ld), std::min(kDepth, depth - t), rows,
             dy + row * ldy + t, ldy, dx + row * ldx + task.c0, ldx, c, std::min(c + kColumns, columns)});
  }
}

}  // namespace lora_edge
