#include "backend/probe.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace lora_edge {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

void check(int threads, double seconds) {
  if (threads < 1 || threads > 1024) fail_input("[probe] threads is ", threads, ", not from 1 to 1024");
  if (!(seconds >= 0 && seconds <= 60)) fail_input("[probe] seconds is ", seconds, ", not from 0 to 60");
}

// Seconds of the fastest pass of those that fit into `seconds`, after one that warms up; at least two.
template <class Pass>
double fastest(double seconds, Pass pass) {
  pass();
  const auto begin = Clock::now();
  double best = 0;
  for (int i = 0; i < 2 || seconds_since(begin) < seconds; ++i) {
    const auto start = Clock::now();
    pass();
    const double s = seconds_since(start);
    if (i == 0 || s < best) best = s;
  }
  return best;
}

constexpr size_t kReadChunk = 1 << 20;  // bytes that a thread claims at a time
constexpr size_t kWord = sizeof(uint64_t), kStreams = 8;

// The chunk is read as kStreams streams side by side: one alone leaves some machines' memory waiting.
uint64_t read_chunk(const uint64_t* p) {
  constexpr size_t kLength = kReadChunk / kWord / kStreams;
  uint64_t sum[8] = {};  // of a line each
  for (size_t i = 0; i < kLength; i += 8)
    for (size_t s = 0; s < kStreams; ++s)
      for (size_t e = 0; e < 8; ++e) sum[e] ^= p[s * kLength + i + e];
  uint64_t all = 0;
  for (const uint64_t s : sum) all ^= s;
  return all;
}

// 8 times the last cache that the system tells of, 256 MiB where it tells of none or of a small one, at most 1 GiB.
size_t read_chunks() {
  long cache = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  cache = std::max(sysconf(_SC_LEVEL3_CACHE_SIZE), sysconf(_SC_LEVEL2_CACHE_SIZE));
#endif
  const size_t bytes = 8 * static_cast<size_t>(std::max(cache, 0l));
  return std::clamp<size_t>(bytes, 256u << 20, 1u << 30) / kReadChunk;
}

}  // namespace

double read_bandwidth(int threads, double seconds) {
  check(threads, seconds);
  ThreadPool pool(threads);
  const size_t chunks = read_chunks(), words = kReadChunk / kWord;
  const std::unique_ptr<uint64_t[]> data(new uint64_t[chunks * words]);
  pool.run(static_cast<int>(chunks), [&](int c, int) {  // by those who read: memory is nearest to who touches it first
    std::fill_n(data.get() + static_cast<size_t>(c) * words, words, uint64_t(c) + 1);
  });
  std::vector<uint64_t> sums(chunks);
  const double best = fastest(seconds, [&] {
    pool.run(static_cast<int>(chunks),
             [&](int c, int) { sums[size_t(c)] = read_chunk(data.get() + static_cast<size_t>(c) * words); });
  });
  const uint64_t kept = sums[chunks / 2];
  asm volatile("" : : "r"(kept));
  return static_cast<double>(chunks * kReadChunk) / best;
}

double int8_peak(int threads, double seconds) {
  check(threads, seconds);
  const Table& table = active_table();
  ThreadPool pool(threads);
  int rounds = 1 << 10;  // of a thread in a pass, doubled until it takes 5 ms: starting and waiting count little then
  for (; rounds < 1 << 28; rounds *= 2) {
    const auto begin = Clock::now();
    table.int8_peak(rounds);
    if (seconds_since(begin) > 5e-3) break;
  }
  const int chunks = 4 * pool.size();  // a thread that loses its core for a while leaves the rest to the others
  std::vector<int64_t> done(static_cast<size_t>(chunks));
  const double best = fastest(
      seconds, [&] { pool.run(chunks, [&](int c, int) { done[size_t(c)] = table.int8_peak(rounds / 4 + 1); }); });
  return static_cast<double>(done[0]) * chunks / best;
}

double matmul_q8(int m, int n, int k, int threads, double seconds) {
  check(threads, seconds);
  constexpr int kMost = 1 << 20, kOutputs = 64;  // outputs that a thread claims at a time
  if (m < 1 || n < 1 || k < kBlock || k % kBlock || m > kMost || n > kMost || k > kMost)
    fail_input("[probe] a product of ", m, " rows with [", n, ", ", k, "]: sizes are from 1 to ", kMost,
               ", and the depth is a multiple of ", kBlock);
  ThreadPool pool(threads);
  const size_t rows = static_cast<size_t>(m), depth = static_cast<size_t>(k), blocks = depth / kBlock;
  const BlockQ8_0 block = [] {
    BlockQ8_0 b{f32_to_f16(0.01f), {}};
    for (int i = 0; i < kBlock; ++i) b.qs[i] = static_cast<int8_t>(8 * i - 124);
    return b;
  }();
  const std::vector<BlockQ8_0> w(static_cast<size_t>(n) * blocks, block);
  const std::vector<int8_t> xq(rows * depth, 7);
  const std::vector<float> xd(rows * blocks, 0.01f);
  const std::vector<int16_t> xs(rows * blocks * 2, 7 * kBlock / 2);
  std::vector<float> y(rows * static_cast<size_t>(n));
  std::vector<uint8_t> scratch(static_cast<size_t>(pool.size()) * kScratchBytes + 64);
  uint8_t* aligned = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64);
  const auto matmul = active_table().matmul[static_cast<int>(DType::q8_0)];
  const double best = fastest(seconds, [&] {
    pool.run((n + kOutputs - 1) / kOutputs, [&](int c, int thread) {
      matmul({w.data(), blocks * sizeof(BlockQ8_0), k, m, nullptr, 0, xq.data(), xd.data(), xs.data(), y.data(),
              static_cast<size_t>(n), c * kOutputs, std::min(n, (c + 1) * kOutputs),
              aligned + static_cast<size_t>(thread) * kScratchBytes});
    });
  });
  return static_cast<double>(m) * n * k / best;
}

}  // namespace lora_edge
