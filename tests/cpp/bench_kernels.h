// Speed of the kernels that decide a model's speed, on one thread. Medians of the thread's own time, as the machine may
// be shared.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <vector>

#include "kernels/kernels.h"
#include "random_input.h"

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
  Random r(1);
  const size_t stride = row_bytes(type, static_cast<size_t>(k)), kk = static_cast<size_t>(k);
  const size_t rows = static_cast<size_t>(m);
  const int copies = static_cast<int>(std::max<size_t>(1, total_bytes / (stride * static_cast<size_t>(n))));
  const int all = copies * n;
  Guarded<uint8_t> w(stride * static_cast<size_t>(all)), scratch(kScratchBytes);
  for (size_t i = 0; i + 4 <= w.size(); i += 4) {  // finite halves, any int8
    const uint32_t bits = r.bits() & 0xbbffbbffu;
    std::memcpy(w.data() + i, &bits, 4);
  }
  Guarded<float> x(rows * kk), xd(rows * kk / kBlock + 1), y(rows * static_cast<size_t>(n));
  Guarded<int8_t> xq(rows * kk);
  Guarded<int32_t> xs(rows * kk / kBlock + 1);
  for (float& v : x) v = r.uniform();
  for (float& v : xd) v = r.uniform();
  for (int8_t& v : xq) v = static_cast<int8_t>(r.range(-127, 127));
  MatmulArgs a{};
  a.w_stride = stride;
  a.k = k;
  a.m = m;
  a.x = x.data();
  a.ldx = kk;
  a.xq = xq.data();
  a.xd = xd.data();
  a.xs = xs.data();
  a.y = y.data();
  a.ldy = static_cast<size_t>(n);
  a.n0 = 0;
  a.n1 = n;
  a.scratch = scratch.data();
  const double s = median_seconds(times, [&] {
    for (int c = 0; c < copies; ++c) {
      a.w = w.data() + stride * static_cast<size_t>(c) * static_cast<size_t>(n);
      t.matmul[static_cast<int>(type)](a);
    }
  });
  const char* const names[kDTypes] = {"f32", "f16", "bf16", "q8_0"};
  std::printf("%-12s matmul_%-5s m %3d k %4d n %5d: %6.2f GB/s of weights, %6.1f GOPS\n", t.name,
              names[static_cast<int>(type)], m, k, n, static_cast<double>(w.bytes()) / s * 1e-9,
              2.0 * m * static_cast<double>(k) * all / s * 1e-9);
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
  for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
    bench_matmul(t, type, 576, 1536, 1, kMemory, 9);
    bench_matmul(t, type, 576, 1536, 64, 0, 9);
  }
}

}  // namespace lora_edge
