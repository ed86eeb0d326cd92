// What the units for products of bytes can do on registers alone, to set a model's speed against.
#include "device.h"
//
#include "args.h"

namespace lora_edge::cuda {
namespace {

constexpr int kSums = 8;  // independent ones of a thread

// Every thread's sum goes to its own place of a.out, so that nothing can be left out.
DEVICE int* own(const PeakArgs& a) { return a.out + block_x() * n_threads() + thread_id(); }

}  // namespace

#if !HAS_MMA_S8 || defined(EVERY_KERNEL)
// kSums · 4 multiply-adds of a thread in a round.
KERNEL(int8_peak_dot4, PeakArgs, 128) {
  int sums[kSums] = {};
  const int w = thread_id() * 0x01010101, x = block_x() + 0x01020304;
  for (int round = 0; round < a.rounds; ++round)
#pragma unroll
    for (int s = 0; s < kSums; ++s) sums[s] = dot4(w, x, sums[s]);
  int all = 0;
  for (int s = 0; s < kSums; ++s) all ^= sums[s] + s;
  *own(a) = all;
}
#endif

#if HAS_MMA_S8
// kSums · 16 · 8 · 32 multiply-adds of a warp in a round.
KERNEL(int8_peak_mma, PeakArgs, 128) {
  int sums[kSums][4] = {};
  const unsigned t = unsigned(thread_id()), w[4] = {t, t + 1, t + 2, t + 3}, x[2] = {t, unsigned(block_x())};
  for (int round = 0; round < a.rounds; ++round)
#pragma unroll
    for (int s = 0; s < kSums; ++s) mma_s8(sums[s], w, x);
  int all = 0;
  for (int s = 0; s < kSums; ++s)
    for (int i = 0; i < 4; ++i) all ^= sums[s][i] + s;
  *own(a) = all;
}
#endif

}  // namespace lora_edge::cuda
