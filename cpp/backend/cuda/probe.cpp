#include "backend/cuda/probe.h"

#include <algorithm>
#include <chrono>

#include "backend/cuda/context.h"
#include "backend/cuda/kernels/args.h"

namespace lora_edge::cuda {
namespace {

constexpr double kPass = 5e-3;  // seconds that a pass takes at least: starting and waiting count little then

// Seconds of one unit of work, from the fastest pass. run(n) asks the device for n units.
template <class Run>
double fastest(Context& context, double seconds, Run run) {
  using Clock = std::chrono::steady_clock;
  const auto timed = [&](int n) {
    const auto begin = Clock::now();
    run(n);
    context.wait();
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  int n = 1;
  timed(n);
  while (n < 1 << 24 && timed(n) < kPass) n *= 2;
  double best = timed(n), spent = best;
  while (spent < seconds) {
    const double pass = timed(n);
    best = std::min(best, pass);
    spent += pass;
  }
  return best / n;
}

}  // namespace

double copy_bandwidth(int index, double seconds) {
  const auto context = std::make_shared<Context>(index);
  const size_t n_bytes = std::min<size_t>(512u << 20, context->info().n_bytes / 16);  // far more than a cache
  const DeviceMemory from(context, n_bytes), to(context, n_bytes);
  context->fill_zeros(from.data(), n_bytes);
  return 2.0 * double(n_bytes) / fastest(*context, seconds, [&](int n) {
           for (int i = 0; i < n; ++i) context->copy_within(to.data(), from.data(), n_bytes);
         });
}

double int8_peak(int index, double seconds) {
  const auto context = std::make_shared<Context>(index);
  const bool mma = context->has("int8_peak_mma");
  constexpr int kThreads = 128;
  const int blocks = 8 * context->info().processors;
  const DeviceMemory out(context, size_t(blocks) * kThreads * sizeof(int));
  const double round = fastest(*context, seconds, [&](int n) {
    context->launch(mma ? "int8_peak_mma" : "int8_peak_dot4", PeakArgs{static_cast<int*>(out.data()), n}, {blocks});
  });
  const double each = mma ? 8.0 * 16 * 8 * 32 / 32 : 8.0 * 4;  // of a thread in a round: see peak.cu
  return each * blocks * kThreads / round;
}

}  // namespace lora_edge::cuda
