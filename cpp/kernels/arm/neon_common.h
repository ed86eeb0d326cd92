// Vector helpers of the NEON files, which keep to Armv8.0: no dotprod, no half-precision arithmetic. Each file that
// includes this has its own copy, in an anonymous namespace: a table for newer CPUs may include it, with other flags.
#pragma once

#if !defined(__aarch64__) || !defined(__ARM_NEON)
#error "built for aarch64 with Advanced SIMD only"
#endif

#include <arm_neon.h>

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

// The first `count` of them; the other lanes are 0.
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

}  // namespace
}  // namespace lora_edge::neon
