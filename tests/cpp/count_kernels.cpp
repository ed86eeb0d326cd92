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

void count_lowrank(const Table& t, DType type, const char* name, int m, int rank) {
  constexpr int kOutputs = 64;
  MatmulInput in(type, rank, kOutputs, m);
  const LowRankArgs a{in.w.data(), kOutputs,    rank, m,       in.x.data(), static_cast<size_t>(rank),
                      in.args.y,   in.args.ldy, 0,    kOutputs};
  char line[64];
  std::snprintf(line, sizeof(line), "%s_m%d", name, m);
  count(line, static_cast<double>(m) * kOutputs * rank, [&] { t.lowrank[static_cast<int>(type)](a); });
}

void count_softmax(const Table& t, const char* name, int m, int n, int d) {
  const size_t rows = static_cast<size_t>(m), ld = static_cast<size_t>(d) + 2;
  Guarded<float> p(rows * kPagePositions), state(rows * ld);
  Random r(1);
  for (float& v : p) v = r.uniform();
  for (float& v : state) v = r.uniform();
  count(name, static_cast<double>(m) * n, [&] { t.softmax_page(p.data(), n, m, 0.125f, state.data(), ld, d); });
}

}  // namespace
}  // namespace lora_edge

int main() {
  using namespace lora_edge;
  const Table& t = active_table();
  std::printf("table %s\n", t.name);
  constexpr int kDepth = 2048;
  for (const int m : {1, 2, 3, 4, 8, 16, 256, 512}) count_matmul(t, DType::q8_0, "matmul_q8_0", m, 64, kDepth);
  for (const DType type : {DType::q4_0, DType::q4_k, DType::q6_k})
    for (const int m : {1, 16, 256}) {
      char name[32];
      std::snprintf(name, sizeof(name), "matmul_%s", dtype_name(type));
      count_matmul(t, type, name, m, 64, kDepth);
    }
  for (const int m : {1, 8}) count_matmul(t, DType::f16, "matmul_f16", m, 8, kDepth);
  for (const int m : {1, 8}) count_lowrank(t, DType::f16, "lowrank_f16", m, 16);
  // Attention: a page's scores or values, for one token's 3 heads and for many tokens.
  count_lowrank(t, DType::f16, "page_f16", 3, kPagePositions);
  count_lowrank(t, DType::f32, "page_f32", 48, kPagePositions);
  count_softmax(t, "softmax_page", 48, kPagePositions, 64);
  count_softmax(t, "softmax_page_part", 3, kPagePositions / 2 + 1, 64);  // one token's heads, the last page
  MatmulInput row(DType::f32, kDepth, 1, 1);
  count("quantize_q8", kDepth,
        [&] { t.quantize_q8(row.x.data(), row.xq.data(), row.xd.data(), row.xs.data(), kDepth); });
  MatmulInput other(DType::f32, kDepth, 1, 1);
  float* y = other.x.data();
  const float* x = row.x.data();
  count("add", kDepth, [&] { t.add(y, x, kDepth); });
  count("rms_norm", kDepth, [&] { t.rms_norm(x, y, 1e-5f, kDepth, y); });
  count("swiglu", kDepth, [&] { t.swiglu(y, x, y, kDepth); });
  count("sum_exp", kDepth, [&] { t.sum_exp(x, 1.0f, kDepth); });
  return 0;
}
