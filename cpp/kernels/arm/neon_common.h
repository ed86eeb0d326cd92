// Vector helpers of the NEON files, which keep to Armv8.0: no dotprod, no half-precision arithmetic. Each file that
// includes this has its own copy, in an anonymous namespace: a table for newer CPUs may include it, with other flags.
#pragma once

#if !defined(__aarch64__) || !defined(__ARM_NEON)
#error "built for aarch64 with Advanced SIMD only"
#endif

#include <arm_neon.h>

#include <utility>

#include "kernels/kernels.h"

namespace lora_edge::neon {
namespace {

// Rows of x are taken in panels of this many bytes: half of one core's share of a Cortex-A53's L2 (512 KB for 4 cores),
// so a panel stays there while W streams past it once. A tile's rows of W stay in L1 while the panel's rows pass.
constexpr size_t kPanelBytes = 64 * 1024;

inline int panel_rows(size_t row_bytes, int tile) {
  const int rows = static_cast<int>(kPanelBytes / (row_bytes + 1));
  return rows < tile ? tile : rows - rows % tile;
}

// f(0), f(1) ... f(N - 1), each with its index as a constant: an unrolled loop, so that arrays indexed by it are
// registers from the start. Loops that GCC 12 unrolls late leave them in memory.
template <class F, int... I>
inline void each(std::integer_sequence<int, I...>, F&& f) {
  (f(std::integral_constant<int, I>()), ...);
}
template <int N, class F>
inline void each(F&& f) {
  each(std::make_integer_sequence<int, N>(), f);
}

// 32 bytes at p, in one instruction; p moves on by `step`. An asm works on locals, as arrays that it names stay in
// memory. GCC 12 would spend more instructions on the addresses. To CPUs that work in order a moved pointer may cost a
// wait: of several loads one moves it, and load_pair serves the others.
template <int step = 32>
inline void take_pair(const uint8_t*& p, int8x16_t& low, int8x16_t& high) {
  const uint8_t* at = p;
  int8x16_t first, second;
  asm("ldp %q0, %q1, [%2], #%3"
      : "=w"(first), "=w"(second), "+r"(at)
      : "i"(step), "m"(*reinterpret_cast<const uint8_t(*)[step]>(p)));
  low = first, high = second, p = at;
}

// 32 bytes at p + offset, a multiple of 16; if it is negative, of what the instruction that moved p says it reads.
template <int offset>
inline void load_pair(const void* p, int8x16_t& low, int8x16_t& high) {
  int8x16_t first, second;
  asm("ldp %q0, %q1, [%2, #%3]"
      : "=w"(first), "=w"(second)
      : "r"(p), "i"(offset), "m"(*static_cast<const uint8_t(*)[offset < 0 ? 1 : offset + 32]>(p)));
  low = first, high = second;
}

// The next N > 1 registers; p moves on past them.
template <int N>
inline void take_vectors(const uint8_t*& p, int8x16_t* v) {
  take_pair<16 * N>(p, v[0], v[1]);
  each<N / 2 - 1>([&](auto i) { load_pair<32 * (i + 1) - 16 * N>(p, v[2 * i + 2], v[2 * i + 3]); });
  if constexpr (N % 2 == 1) v[N - 1] = vld1q_s8(reinterpret_cast<const int8_t*>(p) - 16);
}

// 4 V floats, V even.
template <int V>
inline void load_floats(const float* p, float32x4_t* v) {
  each<V / 2>([&](auto i) {
    int8x16_t low, high;
    load_pair<32 * i>(p, low, high);
    v[2 * i] = vreinterpretq_f32_s8(low);
    v[2 * i + 1] = vreinterpretq_f32_s8(high);
  });
}

template <DType type>
constexpr size_t kSize = type == DType::f32 ? 4 : 2;

// Four elements as floats, by byte loads: a file's tensors may lie at any address.
template <DType type>
inline float32x4_t load4(const void* from) {
  const uint8_t* p = static_cast<const uint8_t*>(from);
  if constexpr (type == DType::f32)
    return vreinterpretq_f32_u8(vld1q_u8(p));
  else if constexpr (type == DType::f16)
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
  else
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}

// Eight halves to floats.
template <DType type>
inline void widen(int8x16_t eight, float32x4_t* v) {
  if constexpr (type == DType::f16) {
    const float16x8_t halves = vreinterpretq_f16_s8(eight);
    v[0] = vcvt_f32_f16(vget_low_f16(halves));
    v[1] = vcvt_high_f32_f16(halves);
  } else {
    const uint16x8_t halves = vreinterpretq_u16_s8(eight);
    v[0] = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(halves), 16));
    v[1] = vreinterpretq_f32_u32(vshll_high_n_u16(halves, 16));
  }
}

// The next 4 V elements, V even; p moves on past them.
template <DType type, int V>
inline void take(const uint8_t*& p, float32x4_t* v) {
  each<V / 2>([&](auto i) {
    int8x16_t low, high;
    if constexpr (type == DType::f32) {
      take_pair(p, low, high);
      v[2 * i] = vreinterpretq_f32_s8(low);
      v[2 * i + 1] = vreinterpretq_f32_s8(high);
    } else if constexpr (i % 2 == 0) {
      if constexpr (i + 1 < V / 2) {
        take_pair(p, low, high);
        widen<type>(low, v + 2 * i);
        widen<type>(high, v + 2 * i + 2);
      } else {
        widen<type>(vld1q_s8(reinterpret_cast<const int8_t*>(p)), v + 2 * i);
        p += 16;
      }
    }
  });
}

// The first `count` of four elements; the other lanes are 0.
template <DType type>
inline float32x4_t load_some(const void* from, int count) {
  if (count >= 4) return load4<type>(from);
  uint8_t four[16] = {};
  for (size_t b = 0; b < static_cast<size_t>(count) * kSize<type>; ++b) four[b] = static_cast<const uint8_t*>(from)[b];
  return load4<type>(four);
}

inline void store_some(float* to, float32x4_t v, int count) {
  if (count >= 4) return vst1q_f32(to, v);
  float four[4];
  vst1q_f32(four, v);
  for (int l = 0; l < count; ++l) to[l] = four[l];
}

inline uint32x4_t lanes_below(int count) {
  const int32x4_t lane = vcombine_s32(vcreate_s32(0x0000000100000000), vcreate_s32(0x0000000300000002));
  return vcltq_s32(lane, vdupq_n_s32(count));
}

// dot16's lanes 0-3, 4-7, 8-11 and 12-15, summed in its order.
inline float reduce16(const float32x4_t* acc) {
  const float32x4_t four = vaddq_f32(vaddq_f32(acc[0], acc[2]), vaddq_f32(acc[1], acc[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(vpadd_f32(two, two), 0);
}

}  // namespace
}  // namespace lora_edge::neon
