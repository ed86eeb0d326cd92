// Rows of floats 16 at a time, as dot16 has lanes. Included, like neon_common.h, as each file's own copy.
#pragma once

#include <cstring>

#include "kernels/arm/neon_common.h"

namespace lora_edge::neon {
namespace {

constexpr int kLanes = 16;

struct Lanes {
  float32x4_t v[4];
};

template <class F>
inline Lanes lanes_of(F&& f) {
  Lanes out;
  each<4>([&](auto i) { out.v[i] = f(i); });
  return out;
}

inline Lanes load_lanes(const float* x) {
  Lanes out;
  load_floats<4>(x, out.v);
  return out;
}
inline void store_lanes(float* to, const Lanes& x) {
  each<4>([&](auto i) { vst1q_f32(to + 4 * i, x.v[i]); });
}

// Which of 16 lanes take part: all, or the first `count`, the others then being 0.
struct AllLanes {
  Lanes load(const float* x) const { return load_lanes(x); }
  void store(float* to, const Lanes& x) const { store_lanes(to, x); }
  Lanes or_zero(const Lanes& x) const { return x; }
};
struct FirstLanes {
  int count;
  Lanes load(const float* x) const {
    float part[kLanes] = {};
    std::memcpy(part, x, static_cast<size_t>(count) * sizeof(float));
    return load_lanes(part);
  }
  void store(float* to, const Lanes& x) const {
    float part[kLanes];
    store_lanes(part, x);
    std::memcpy(to, part, static_cast<size_t>(count) * sizeof(float));
  }
  Lanes or_zero(const Lanes& x) const {
    return lanes_of([&](auto i) {
      return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x.v[i]), lanes_below(count - 4 * i)));
    });
  }
};

// f(i, lanes) for i = 0, 16 ... < n.
template <class F>
inline void each16(int n, F&& f) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, AllLanes{});
  if (i < n) f(i, FirstLanes{n - i});
}

}  // namespace
}  // namespace lora_edge::neon
