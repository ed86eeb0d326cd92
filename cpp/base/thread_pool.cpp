#include "base/thread_pool.h"

#include <algorithm>
#include <chrono>

#include "base/prefetch.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lora_edge {
namespace {

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Best effort: where the system refuses, the thread stays where it may run.
void pin_to(int cpu) {
#if defined(__linux__)
  if (cpu < 0 || cpu >= CPU_SETSIZE) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
#else
  (void)cpu;
#endif
}

// A worker spins this long for the next region before it parks: longer than the serial gaps between the regions of a
// token (a few µs) and than sampling; short enough to leave an idle machine idle.
constexpr auto kSpin = std::chrono::microseconds(200);
// The caller polls for stragglers this many times before it offers its core to them.
constexpr int kPolls = 2000;
// What a thread fetches of the next region's weights: a few µs of them, and little beside any L2.
constexpr size_t kFetched = 64 * 1024, kFetchedAtOnce = 512;

}  // namespace

ThreadPool::ThreadPool(int n_threads, std::vector<int> cpus)
    : n_threads_(n_threads < 1 ? 1 : n_threads), cpus_(std::move(cpus)) {
  workers_.reserve(static_cast<size_t>(n_threads_ - 1));
  try {
    for (int t = 1; t < n_threads_; ++t) workers_.emplace_back([this, t] { worker(t); });
  } catch (...) {  // the system is out of threads: go on with those that there are
    n_threads_ = static_cast<int>(workers_.size()) + 1;
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (auto& w : workers_) w.join();
}

bool ThreadPool::claim(int thread) {
  uint64_t t = ticket_.load(std::memory_order_acquire);
  while (static_cast<uint32_t>(t) != 0) {
    if (ticket_.compare_exchange_weak(t, t - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      call_(ctx_, n_chunks_ - static_cast<int>(static_cast<uint32_t>(t)), thread);
      pending_.fetch_sub(1, std::memory_order_release);
      return true;
    }
  }
  return false;
}

template <class Busy>
void ThreadPool::fetch_expected(int thread, const Busy& busy) const {
  const uint8_t* data = expected_.load(std::memory_order_relaxed);
  const size_t first = static_cast<size_t>(thread) * expected_stride_.load(std::memory_order_relaxed);
  const size_t end = std::min(expected_bytes_.load(std::memory_order_relaxed), first + kFetched);
  for (size_t at = first; at < end && !busy(); at += kFetchedAtOnce) prefetch(data + at, kFetchedAtOnce);
}

void ThreadPool::run_region(int n_chunks, Call call, void* ctx) {
  call_ = call;
  ctx_ = ctx;
  n_chunks_ = n_chunks;
  pending_.store(n_chunks, std::memory_order_relaxed);
  const uint64_t epoch = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(epoch << 32 | static_cast<uint32_t>(n_chunks), std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  while (claim(0)) {
  }
  fetch_expected(0, [this] { return pending_.load(std::memory_order_relaxed) == 0; });
  for (int polls = 0; pending_.load(std::memory_order_acquire) != 0; ++polls) {
    if (polls < kPolls) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::worker(int thread) {
  if (!cpus_.empty()) pin_to(cpus_[static_cast<size_t>(thread) % cpus_.size()]);
  const auto has_work = [this] { return static_cast<uint32_t>(ticket_.load(std::memory_order_seq_cst)) != 0; };
  auto idle_since = std::chrono::steady_clock::now();
  while (!stop_.load(std::memory_order_relaxed)) {
    bool worked = false;
    while (claim(thread)) worked = true;
    if (worked) {
      fetch_expected(thread, has_work);
      idle_since = std::chrono::steady_clock::now();
    }
    for (int i = 0; i < 64 && !has_work(); ++i) relax();
    if (has_work() || std::chrono::steady_clock::now() - idle_since < kSpin) continue;
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return stop_.load(std::memory_order_relaxed) || has_work(); });
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    lock.unlock();
    idle_since = std::chrono::steady_clock::now();
  }
}

}  // namespace lora_edge
