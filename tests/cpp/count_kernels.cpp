// Runs each kernel of the active table once per shape between two marks, for tools/arm/count.c, and prints for each
// what an executed instruction is to be divided by: its multiply-adds, or its elements. aarch64 only.
#include <cstdio>
#include <functional>

#include "bench_input.h"
#include "kernels/kernels.h"

namespace lora_edge {
namespace {

void count(const char* name, double units, const std::function<void()>& work) {
  std::printf("%s %.0f\n", name, units);
  asm volatile("hint #127" ::: "memory");
  work();
  asm volatile("hint #127" ::: "memory");
}

void count_matmul(const Table& t, DType type, const char* name, int m, int n, int k) {
  MatmulInput in(type, k, n, m);
  char line[64];
  std::snprintf(line, sizeof(line), "%s_m%d", name, m);
  count(line, static_cast<double>(m) * n * k, [&] { t.matmul[static_cast<int>(type)](in.args); });
}

void count_lowrank(const Table& t, int m) {
  constexpr int kOutputs = 64, kRank = 16;  // a panel of B
  MatmulInput in(DType::f16, kRank, kOutputs, m);
  const LowRankArgs a{in.w.data(), kOutputs, kRank, m, in.x.data(), kRank, in.args.y, in.args.ldy, 0, kOutputs};
  char line[64];
  std::snprintf(line, sizeof(line), "lowrank_f16_m%d", m);
  count(line, static_cast<double>(m) * kOutputs * kRank, [&] { t.lowrank[static_cast<int>(DType::f16)](a); });
}

}  // namespace
}  // namespace lora_edge

int main() {
  using namespace lora_edge;
  const Table& t = active_table();
  std::printf("table %s\n", t.name);
  constexpr int kDepth = 2048;
  for (const int m : {1, 2, 3, 4, 8, 16, 256, 512}) count_matmul(t, DType::q8_0, "matmul_q8_0", m, 64, kDepth);
  for (const int m : {1, 8}) count_matmul(t, DType::f16, "matmul_f16", m, 8, kDepth);
  for (const int m : {1, 8}) count_lowrank(t, m);

  constexpr int kGroup = 3, kHeadDim = 64, kPositions = 1024;
  AttentionInput attention(DType::f16, kGroup, kHeadDim, kPositions);
  count("attention_f16", 2.0 * kGroup * kHeadDim * kPositions,
        [&] { t.attention[static_cast<int>(DType::f16)](attention.args); });

  MatmulInput row(DType::f32, kDepth, 1, 1);
  count("quantize_q8", kDepth,
        [&] { t.quantize_q8(row.x.data(), row.xq.data(), row.xd.data(), row.xs.data(), kDepth); });
  return 0;
}
