#include "backend/low_rank.h"

#include <algorithm>

namespace lora_edge {
namespace {

constexpr int kTaskRows = 24;
constexpr int kRankChunk = 8;

}  // namespace

const Weight& weight_of(const Weight& base, int id, const RowGroup& group) {
  for (const ActiveAdapter& active : *group.adapters) {
    const LoraExtra* extra = active.adapter->has_wholes() ? active.adapter->at(id).extra : nullptr;
    if (extra && extra->whole && active.weight != 0.0f) return *extra->whole;
  }
  return base;
}

bool works(const ActiveAdapter& active, const LoraWeight& weight, const RowGroup& group) {
  return weight.r != 0 && active.weight != 0.0f && active.start <= group.position;
}

const float* row_scales(const ActiveAdapter& active, int id) {
  if (!active.scales) return nullptr;
  const std::vector<float>& c = (*active.scales)[size_t(id)];
  return c.empty() ? nullptr : c.data();
}

int LowRank::plan(const std::vector<Linear>& linears, const std::vector<RowGroup>& groups, int threads) {
  parts_.clear();
  tasks_.clear();
  int ldu = 0;
  for (const RowGroup& group : groups) {
    int u0 = 0;
    for (size_t l = 0; l < linears.size(); ++l) {
      for (const ActiveAdapter& active : *group.adapters) {
        const LoraWeight& weight = active.adapter->at(linears[l].id);
        if (!works(active, weight, group)) continue;
        parts_.push_back({int(l), group, &weight, weight.scale * active.weight, u0, row_scales(active, linears[l].id)});
        u0 += weight.r;
      }
    }
    ldu = std::max(ldu, u0);
  }
  for (const LowRankPart& p : parts_)
    for (int i = p.group.begin; i < p.group.end; i += kTaskRows) {
      const int r = p.weight->r, even = (r + threads - 1) / threads;
      const int step = std::max(kRankChunk, (even + 3) / 4 * 4);
      for (int t = 0; t < r; t += step)
        tasks_.push_back({&p, i, std::min(i + kTaskRows, p.group.end), t, std::min(t + step, r)});
    }
  return ldu;
}

void LowRank::input(const Task& task, const float* x, int k, float* u, int ldu, void* scratch) const {
  const LowRankPart& p = *task.part;
  const int rows = task.end - task.begin;
  float* out = u + size_t(task.begin) * ldu + p.u0;
  table_.matmul[int(p.weight->a_type)]({p.weight->a, row_bytes(p.weight->a_type, size_t(k)), k, rows,
                                        x + size_t(task.begin) * k, size_t(k), nullptr, nullptr, nullptr, out,
                                        size_t(ldu), task.r0, task.r1, scratch});
  for (int i = 0; i < rows; ++i)
    for (int t = task.r0; t < task.r1; ++t) out[size_t(i) * ldu + t] *= p.scale;
}

void LowRank::output(const LoraWeight& weight, int n, const float* u, size_t ldu, int m, float* y, int n0, int n1,
                     void* scratch) const {
  for (int j0 = n0 / kPanelOutputs * kPanelOutputs; j0 < n1; j0 += kPanelOutputs) {
    const int width = std::min(kPanelOutputs, n - j0);
    LowRankArgs args{
        nullptr, width, weight.r, m, u, ldu, y + j0, size_t(n), std::max(n0 - j0, 0), std::min(n1 - j0, width)};
    if (weight.panels) {
      args.bt = weight.panels + row_bytes(weight.b_type, size_t(j0) * size_t(weight.r));
      table_.lowrank[int(weight.b_type)](args);
      continue;
    }
    // Not settled yet: its rows are transposed each time, as many ranks as the scratch holds.
    constexpr int kRanks = int(kScratchBytes / (kPanelOutputs * sizeof(float)));
    const size_t stride = row_bytes(weight.b_type, size_t(weight.r));
    for (int t = 0; t < weight.r; t += kRanks) {
      float* panel = static_cast<float*>(scratch);
      args.r = std::min(kRanks, weight.r - t);
      args.u = u + t;
      args.bt = panel;
      table_.transpose[int(weight.b_type)](weight.b + size_t(j0) * stride + row_bytes(weight.b_type, size_t(t)), stride,
                                           width, args.r, panel);
      table_.lowrank[int(DType::f32)](args);
    }
  }
}

void LowRank::finish(const LowRankPart& p, const float* bias, float* y, int n, int n0, int n1) {
  const std::vector<float>& added = p.weight->extra->bias;
  for (int i = p.group.begin; i < p.group.end; ++i) {
    float* row = y + size_t(i) * n;
    if (!added.empty())
      for (int j = n0; j < n1; ++j) row[j] += p.scale * added[size_t(j)];
    if (!p.row_scales) continue;
    for (int j = n0; j < n1; ++j)
      row[j] = bias ? (row[j] - bias[j]) * p.row_scales[j] + bias[j] : row[j] * p.row_scales[j];
  }
}

}  // namespace lora_edge
