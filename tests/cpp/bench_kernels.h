// Speed of the kernels that decide a model's speed, on one thread. Medians of the thread's own time, as the machine may
// be shared.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <vector>

#include "backend/input_gradient.h"
#include "bench_input.h"
#include "kernels/kernels.h"

namespace lora_edge {

inline double thread_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

inline double median_seconds(int times, const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int i = 0; i < times; ++i) {
    const double start = thread_seconds();
    work();
    seconds.push_back(thread_seconds() - start);
  }
  std::nth_element(seconds.begin(), seconds.begin() + times / 2, seconds.end());
  return seconds[static_cast<size_t>(times) / 2];
}

// Rows of one shape, `total_bytes` of them, so that a pass over all is a pass over memory.
inline void bench_matmul(const Table& t, DType type, int k, int n, int m, size_t total_bytes, int times) {
  const size_t bytes = row_bytes(type, static_cast<size_t>(k)) * static_cast<size_t>(n);
  const int copies = static_cast<int>(std::max<size_t>(1, total_bytes / bytes));
  MatmulInput in(type, k, n, m, copies);
  const double s = median_seconds(times, [&] {
    for (int c = 0; c < copies; ++c) {
      in.args.w = in.w.data() + bytes * static_cast<size_t>(c);
      t.matmul[static_cast<int>(type)](in.args);
    }
  });
  std::printf("%-12s matmul_%-6s m %3d k %4d n %5d: %6.2f GB/s of weights, %6.1f GOPS\n", t.name, dtype_name(type), m,
              k, n, static_cast<double>(in.w.bytes()) / s * 1e-9,
              2.0 * m * static_cast<double>(k) * n * copies / s * 1e-9);
  std::fflush(stdout);
}

inline void bench_gradient(const Table& t, DType type, int k, int n, int m, int times) {
  const MatmulInput in(type, k, n, m);
  const Weight w{type, in.w.data(), n, k, nullptr};
  ThreadPool pool(1);
  const InputGradient gradient(t, pool);
  const Guarded<float> dx(in.x.size());
  const double s = median_seconds(times, [&] { gradient.run({{&w, in.y.data()}}, m, dx.data(), in.scratch.data()); });
  std::printf("%-12s gradient_%-4s m %3d k %4d n %5d: %6.1f GFLOPS\n", t.name, dtype_name(type), m, k, n,
              2.0 * m * static_cast<double>(k) * n / s * 1e-9);
  std::fflush(stdout);
}

inline void bench_table(const Table& t) {
  constexpr size_t kMemory = 80u << 20;  // more than caches hold
  bench_matmul(t, DType::q8_0, 576, 1536, 1, kMemory, 15);
  bench_matmul(t, DType::q8_0, 1536, 576, 1, kMemory, 15);
  bench_matmul(t, DType::q8_0, 576, 49152, 1, kMemory, 15);
  for (const int m : {4, 16}) bench_matmul(t, DType::q8_0, 576, 1536, m, kMemory, 5);
  for (const int n : {576, 192, 1536}) bench_matmul(t, DType::q8_0, 576, n, 256, 0, 15);
  bench_matmul(t, DType::q8_0, 1536, 576, 256, 0, 15);
  bench_matmul(t, DType::q8_0, 576, 49152, 256, 0, 3);
  for (const DType type : {DType::q4_0, DType::q5_0, DType::q4_k, DType::q6_k}) {
    for (const int m : {1, 3}) bench_matmul(t, type, 2048, 5632, m, kMemory, 15);
    bench_matmul(t, type, 2048, 5632, 256, 0, 5);
  }
  bench_matmul(t, DType::q8_0, 2048, 5632, 256, 0, 5);
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    bench_matmul(t, type, 576, 1536, 1, kMemory, 9);
    bench_matmul(t, type, 576, 1536, 64, 0, 9);
  }
  for (const int m : {128, 512}) {
    bench_gradient(t, DType::q8_0, 576, 576, m, 15);
    bench_gradient(t, DType::q8_0, 576, 1536, m, 15);
    bench_gradient(t, DType::q8_0, 1536, 576, m, 15);
    bench_gradient(t, DType::q4_k, 2048, 2048, m, 5);
  }
}

}  // namespace lora_edge
