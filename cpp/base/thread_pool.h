// A pool for short fork-join regions: the caller and the workers claim chunks one at a time, so that a thread that the
// system has taken off its core holds up one chunk and not the region.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace lora_edge {

class ThreadPool {
 public:
  // The caller counts as one: n_threads - 1 workers are started. With `cpus`, worker t stays on cpus[t % size]; the
  // caller's thread is left to the system.
  explicit ThreadPool(int n_threads, std::vector<int> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_threads_; }

  // What the region after the next one reads first: thread t is likely to begin t · stride bytes into these. Threads
  // without work fetch the first kFetched of that into their caches while others are at their last chunks and the
  // caller between regions. It needn't be there any more.
  void expect(const void* data, size_t n_bytes, size_t stride) {
    expected_.store(static_cast<const uint8_t*>(data), std::memory_order_relaxed);
    expected_bytes_.store(n_bytes, std::memory_order_relaxed);
    expected_stride_.store(stride, std::memory_order_relaxed);
  }

  // Calls fn(chunk, thread) once for each chunk in [0, n_chunks), thread in [0, size()). fn must not throw.
  // One region at a time: callers serialise.
  template <class Fn>
  void run(int n_chunks, Fn&& fn) {
    if (n_chunks <= 0) return;
    if (n_chunks == 1 || n_threads_ == 1) {
      for (int c = 0; c < n_chunks; ++c) fn(c, 0);
      return;
    }
    using F = std::remove_reference_t<Fn>;
    run_region(
        n_chunks, [](void* ctx, int chunk, int thread) { (*static_cast<F*>(ctx))(chunk, thread); },
        const_cast<void*>(static_cast<const void*>(&fn)));
  }

 private:
  using Call = void (*)(void* ctx, int chunk, int thread);

  void run_region(int n_chunks, Call call, void* ctx);
  void worker(int thread);
  bool claim(int thread);  // runs one chunk if there is one
  template <class Busy>
  void fetch_expected(int thread, const Busy& busy) const;  // until busy()

  // epoch << 32 | chunks left to claim. A successful decrement proves that the region of that epoch is still open,
  // since the claimed chunk is not done yet: the fields below it can't change before `pending_` is decremented.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int> pending_{0};  // chunks not yet done
  Call call_ = nullptr;
  void* ctx_ = nullptr;
  int n_chunks_ = 0;
  // Written for the next region while workers may read them of the last: what they then fetch is of no use, or nowhere.
  std::atomic<const uint8_t*> expected_{nullptr};
  std::atomic<size_t> expected_bytes_{0}, expected_stride_{0};

  int n_threads_;
  std::vector<int> cpus_;
  std::atomic<bool> stop_{false};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace lora_edge
