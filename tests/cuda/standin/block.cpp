// A block's warps take turns, and in a warp its lanes. A warp runs until all of its lanes wait for the block or are
// done: as far ahead of the other warps as it can get, so that what lacks a barrier between two warps goes wrong in one
// of the plain orders at least. Lanes run one by one to the warp's next barrier, in another order after each.
#include "block.h"

#include <cxxabi.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>
#include <numeric>
#include <vector>

#include "fiber.h"
#include "thread.h"

namespace lora_edge::standin {

Place place;

namespace {

struct {
  const Launch* launch;
  Order* order;
  Wait waits[kMostFibers];
  int turns[kMostFibers / kLanes];  // of each warp
  CUresult failed;                  // by fail_thread
  std::string failure;
} block;

const char* wait_name(Wait w) {
  constexpr const char* kNames[] = {
      "run", "wait at sync()", "wait at sync_warp()", "wait at a shuffle", "wait at mma_s8", "have exited"};
  return kNames[static_cast<int>(w)];
}

// What `count` threads from `first` on do, e.g. "31 threads wait at sync(), 1 have exited".
std::string describe(int first, int count) {
  std::string text;
  for (Wait w : {Wait::block, Wait::warp, Wait::shuffle, Wait::mma, Wait::exited}) {
    int n = 0;
    for (int t = first; t < first + count; ++t) n += block.waits[t] == w;
    if (n) text += concat(text.empty() ? "" : ", ", n, text.empty() ? " threads " : " ", wait_name(w));
  }
  return text;
}

[[noreturn]] void fail_block(CUresult code, const std::string& what) {
  fail(code, "kernel ", block.launch->kernel->name, ", block (", place.block[0], ", ", place.block[1], ", ",
       place.block[2], "): ", what);
}

void thread_main() {
  block.launch->kernel->run(block.launch->args);
  const int thread = place.thread;
  block.waits[thread] = Wait::exited;
  fiber_pause(thread);
  __builtin_unreachable();
}

// Runs the warp's lanes as far as they get; false if they are left waiting for the block, or done.
bool run_warp(int warp) {
  const int first = warp * kLanes;
  uint8_t lanes[kLanes];
  block.order->permute(lanes, kLanes);
  place.turn = block.turns[warp];
  for (uint8_t lane : lanes) {
    if (block.waits[first + lane] != Wait::nothing) continue;
    place.thread = first + lane;
    fiber_resume(first + lane);
    if (block.failed) fail_block(block.failed, concat("thread ", first + lane, ": ", block.failure));
  }
  bool same = true, warp_barrier = false;
  for (int t = first; t < first + kLanes; ++t) {
    same = same && block.waits[t] == block.waits[first];
    warp_barrier = warp_barrier || (block.waits[t] != Wait::block && block.waits[t] != Wait::exited);
  }
  if (!warp_barrier) return false;
  if (!same) fail_block(CUDA_ERROR_LAUNCH_FAILED, concat("in warp ", warp, " ", describe(first, kLanes)));
  ++block.launch->kernel->warp_barriers;
  block.turns[warp] ^= 1;
  std::memset(block.waits + first, 0, kLanes);
  return true;
}

void run_block() {
  const int threads = block.launch->threads;
  for (int t = 0; t < threads; ++t) fiber_start(t, thread_main);
  std::vector<int> warps;
  for (;;) {
    std::memset(block.waits, 0, static_cast<size_t>(threads));
    warps.resize(static_cast<size_t>(threads / kLanes));
    std::iota(warps.begin(), warps.end(), 0);
    for (size_t i = warps.size(); !warps.empty();) {
      i = block.order->next(warps.size(), i);
      if (!run_warp(warps[i])) {
        warps.erase(warps.begin() + static_cast<ptrdiff_t>(i));
        i = warps.size();
      }
    }
    int exited = 0;
    for (int t = 0; t < threads; ++t) exited += block.waits[t] == Wait::exited;
    if (exited == threads) return;
    if (exited) fail_block(CUDA_ERROR_LAUNCH_FAILED, describe(0, threads));
    ++block.launch->kernel->barriers;
  }
}

// --- shared memory -------------------------------------------------------------------------------------------------

// This library's thread_local data on this OS thread: all arrays of kernels in shared memory.
struct Span {
  unsigned char* data;
  size_t bytes;
};
thread_local unsigned char in_shared;  // touched, so that there are such data

Span static_shared() {
  in_shared = 1;
  Span found{nullptr, 0};
  dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void* result) {
        Span span{static_cast<unsigned char*>(library->dlpi_tls_data), 0};
        for (int i = 0; i < library->dlpi_phnum; ++i) {
          if (library->dlpi_phdr[i].p_type == PT_TLS) span.bytes = library->dlpi_phdr[i].p_memsz;
        }
        if (!span.data || &in_shared < span.data || &in_shared >= span.data + span.bytes) return 0;
        *static_cast<Span*>(result) = span;
        return 1;
      },
      &found);
  return found;
}

// NaNs everywhere, but not in what C++ knows of exceptions, which is there if libstdc++ is linked statically.
void spoil(Span span) {
  struct Exceptions {
    void* caught;
    unsigned uncaught;
  };
  auto* exceptions = reinterpret_cast<Exceptions*>(abi::__cxa_get_globals());
  const Exceptions kept = *exceptions;
  std::memset(span.data, 0xff, span.bytes);
  *exceptions = kept;
}

// Dynamic shared memory of `bytes`, rounded up to 16, in front of an unreadable page.
Span dynamic_shared(size_t bytes) {
  constexpr size_t kMost = 256 << 10;
  static unsigned char* end = [] {
    void* map = mmap(nullptr, 2 * kMost, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED || mprotect(map, kMost, PROT_READ | PROT_WRITE)) throw std::bad_alloc();
    return static_cast<unsigned char*>(map) + kMost;
  }();
  bytes = (bytes + 15) / 16 * 16;
  return {end - bytes, bytes};
}

}  // namespace

void wait(Wait what) {
  const int thread = place.thread;
  block.waits[thread] = what;
  fiber_pause(thread);
}

void fail_thread(CUresult code, const std::string& what) {
  block.failed = code;
  block.failure = what;
  fiber_pause(place.thread);
  __builtin_unreachable();
}

void run_grid(const Launch& launch, Order& order) {
  block.launch = &launch;
  block.order = &order;
  block.failed = CUDA_SUCCESS;
  const Span fixed = launch.static_shared ? static_shared() : Span{nullptr, 0};
  const Span dynamic = dynamic_shared(launch.dynamic_bytes);
  place.threads = launch.threads;
  place.dynamic_shared = dynamic.data;
  for (int i = 0; i < 3; ++i) place.grid[i] = static_cast<int>(launch.grid[i]);
  std::vector<uint64_t> blocks(static_cast<size_t>(launch.grid[0]) * launch.grid[1] * launch.grid[2]);
  order.permute(blocks.data(), blocks.size());
  for (uint64_t b : blocks) {
    place.block[0] = static_cast<int>(b % launch.grid[0]);
    place.block[1] = static_cast<int>(b / launch.grid[0] % launch.grid[1]);
    place.block[2] = static_cast<int>(b / launch.grid[0] / launch.grid[1]);
    if (fixed.bytes) spoil(fixed);
    if (dynamic.bytes) std::memset(dynamic.data, 0xff, dynamic.bytes);
    run_block();
  }
}

}  // namespace lora_edge::standin
