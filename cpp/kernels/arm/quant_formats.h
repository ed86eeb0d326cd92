// How NEON reads the blocks of each quantised type but Q8_0 (blocks.h): 4 rows at a time, into bytes that products take
// and scales by fours. Included, like neon_common.h, as each file's own copy.
//
// A format F says, for a file's block of kBlocks blocks of 32 in kBytes:
//   kWide            weights are any signed bytes; else from 0 to 63, and kOffset too large
//   kHalves          integer scales serve 16 elements each
//   kMins            minima per block: 0, 1, or 2 (one per half)
//   unpack(row, at, out)  the file's blocks `at` bytes into 4 rows, to out[kBlocks]
#pragma once

#include <cstddef>

#include "kernels/arm/neon_common.h"

namespace lora_edge::neon {
namespace {

template <int n>
struct Minima {
  float min[n][4];
};
template <>
struct Minima<0> {};
template <bool halves>
struct HalfScales {
  int32_t scale[2][4];
};
template <>
struct HalfScales<false> {};

// A block of 4 rows. Row r's 32 weights are w[2 r] and w[2 r + 1], until a kernel arranges them otherwise.
template <class F>
struct Unpacked : Minima<F::kMins>, HalfScales<F::kHalves> {
  float d[4];
  int8_t w[8][16];
};

template <int blocks, size_t bytes, bool wide, int offset, bool halves, int mins>
struct FormatOf {
  static constexpr int kBlocks = blocks;
  static constexpr size_t kBytes = bytes;
  static constexpr bool kWide = wide, kHalves = halves;
  static constexpr int kOffset = offset, kMins = mins;
};

inline uint8x16_t load_bytes(const uint8_t* p) { return vld1q_u8(p); }
inline void store_bytes(int8_t* to, uint8x16_t v) { vst1q_s8(to, vreinterpretq_s8_u8(v)); }

// The halves at 4 addresses, as floats.
inline float32x4_t load_halves(const uint8_t* const* row, size_t at) {
  uint16_t half[4];
  for (int r = 0; r < 4; ++r) std::memcpy(&half[r], row[r] + at, sizeof(uint16_t));
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half)));
}

// v[g] comes to hold bytes 4g to 4g + 3 of each of 4 rows.
inline void transpose_bytes(const uint8x16_t* row, uint32x4_t* v) {
  const auto pair = [&](int r, bool high) {
    const uint32x4_t a = vreinterpretq_u32_u8(row[r]), b = vreinterpretq_u32_u8(row[r + 1]);
    return vreinterpretq_u64_u32(high ? vtrn2q_u32(a, b) : vtrn1q_u32(a, b));
  };
  const uint64x2_t even01 = pair(0, false), odd01 = pair(0, true), even23 = pair(2, false), odd23 = pair(2, true);
  v[0] = vreinterpretq_u32_u64(vtrn1q_u64(even01, even23));
  v[1] = vreinterpretq_u32_u64(vtrn1q_u64(odd01, odd23));
  v[2] = vreinterpretq_u32_u64(vtrn2q_u64(even01, even23));
  v[3] = vreinterpretq_u32_u64(vtrn2q_u64(odd01, odd23));
}

// Byte b of 4 in each lane.
inline uint32x4_t byte_of(uint32x4_t v, int b) {
  return vandq_u32(vshlq_u32(v, vdupq_n_s32(-8 * b)), vdupq_n_u32(255));
}
inline int32x4_t signed_byte_of(uint32x4_t v, int b) {
  return vshrq_n_s32(vreinterpretq_s32_u32(vshlq_u32(v, vdupq_n_s32(24 - 8 * b))), 24);
}

// Bits `shift` and up of each byte, under a mask.
inline uint8x16_t field(uint8x16_t v, int shift, uint8_t mask) {
  return vandq_u8(vshlq_u8(v, vdupq_n_s8(static_cast<int8_t>(-shift))), vdupq_n_u8(mask));
}

// ---- blocks of 32 ----

// F::weights(p, w) gives a row's two registers; scales and minima are the first halves of a block.
template <class F>
inline void unpack_block(const uint8_t* const* row, size_t at, Unpacked<F>* out) {
  vst1q_f32(out->d, load_halves(row, at));
  if constexpr (F::kMins == 1) vst1q_f32(out->min[0], load_halves(row, at + sizeof(uint16_t)));
  each<4>([&](auto r) {
    uint8x16_t w[2];
    F::weights(row[r] + at, w);
    each<2>([&](auto h) { store_bytes(out->w[2 * r + h], w[h]); });
  });
}

inline void nibbles(const uint8_t* p, uint8x16_t* w) {
  const uint8x16_t v = load_bytes(p);
  w[0] = vandq_u8(v, vdupq_n_u8(15));
  w[1] = vshrq_n_u8(v, 4);
}

// 16 in each byte of 32 whose bit is set.
inline void add_fifth_bits(const uint8_t* p, uint8x16_t* w) {
  const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
  each<2>([&](auto h) {
    const uint8x16_t bits = vcombine_u8(vdup_n_u8(p[2 * h]), vdup_n_u8(p[2 * h + 1]));
    w[h] = vorrq_u8(w[h], vandq_u8(vtstq_u8(bits, bit), vdupq_n_u8(16)));
  });
}

template <class F, class Block, bool wide, int offset, int mins>
struct Single : FormatOf<1, sizeof(Block), wide, offset, false, mins> {
  static void unpack(const uint8_t* const* row, size_t at, Unpacked<F>* out) { unpack_block<F>(row, at, out); }
};

struct Q4_0 : Single<Q4_0, BlockQ4_0, false, 8, 0> {
  static void weights(const uint8_t* p, uint8x16_t* w) { nibbles(p + offsetof(BlockQ4_0, qs), w); }
};
struct Q4_1 : Single<Q4_1, BlockQ4_1, false, 0, 1> {
  static void weights(const uint8_t* p, uint8x16_t* w) { nibbles(p + offsetof(BlockQ4_1, qs), w); }
};
struct Q5_0 : Single<Q5_0, BlockQ5_0, false, 16, 0> {
  static void weights(const uint8_t* p, uint8x16_t* w) {
    nibbles(p + offsetof(BlockQ5_0, qs), w);
    add_fifth_bits(p + offsetof(BlockQ5_0, qh), w);
  }
};
struct Q5_1 : Single<Q5_1, BlockQ5_1, false, 0, 1> {
  static void weights(const uint8_t* p, uint8x16_t* w) {
    nibbles(p + offsetof(BlockQ5_1, qs), w);
    add_fifth_bits(p + offsetof(BlockQ5_1, qh), w);
  }
};
struct Iq4Nl : Single<Iq4Nl, BlockIq4Nl, true, 0, 0> {
  static void weights(const uint8_t* p, uint8x16_t* w) {
    const uint8x16_t table = vreinterpretq_u8_s8(vld1q_s8(kIq4Nl));
    nibbles(p + offsetof(BlockIq4Nl, qs), w);
    each<2>([&](auto h) { w[h] = vqtbl1q_u8(table, w[h]); });
  }
};

// ---- super-blocks of 8 ----

// F::weights(p, b, h) gives half h of block b of a row.
template <class F>
inline void unpack_weights(const uint8_t* const* row, size_t at, Unpacked<F>* out) {
  each<4>([&](auto r) {
    each<8>([&](auto b) { each<2>([&](auto h) { store_bytes(out[b].w[2 * r + h], F::weights(row[r] + at, b, h)); }); });
  });
}

// Q4_K and Q5_K: d, dmin and the 12 bytes of scales are the first 16 bytes.
template <class F>
inline void unpack_six_bits(const uint8_t* const* row, size_t at, Unpacked<F>* out) {
  uint8x16_t bytes[4];
  uint32x4_t v[4];
  each<4>([&](auto r) { bytes[r] = load_bytes(row[r] + at); });
  transpose_bytes(bytes, v);
  const float32x4_t d = load_halves(row, at), dmin = vnegq_f32(load_halves(row, at + sizeof(uint16_t)));
  const uint32x4_t low6 = vdupq_n_u32(0x3f3f3f3f), low4 = vdupq_n_u32(0x0f0f0f0f), high2 = vdupq_n_u32(0x30303030);
  const auto high = [&](uint32x4_t w) { return vandq_u32(vshrq_n_u32(w, 2), high2); };
  const uint32x4_t scale[2] = {vandq_u32(v[1], low6), vorrq_u32(vandq_u32(v[3], low4), high(v[1]))};
  const uint32x4_t min[2] = {vandq_u32(v[2], low6), vorrq_u32(vandq_u32(vshrq_n_u32(v[3], 4), low4), high(v[2]))};
  each<8>([&](auto b) {
    vst1q_f32(out[b].d, vmulq_f32(d, vcvtq_f32_u32(byte_of(scale[b / 4], b % 4))));
    vst1q_f32(out[b].min[0], vmulq_f32(dmin, vcvtq_f32_u32(byte_of(min[b / 4], b % 4))));
  });
  unpack_weights<F>(row, at, out);
}

struct Q4_K : FormatOf<8, sizeof(BlockQ4K), false, 0, false, 1> {
  static uint8x16_t weights(const uint8_t* p, int b, int h) {
    return field(load_bytes(p + offsetof(BlockQ4K, qs) + 32 * (b / 2) + 16 * h), 4 * (b % 2), 15);
  }
  static void unpack(const uint8_t* const* row, size_t at, Unpacked<Q4_K>* out) { unpack_six_bits(row, at, out); }
};
struct Q5_K : FormatOf<8, sizeof(BlockQ5K), false, 0, false, 1> {
  static uint8x16_t weights(const uint8_t* p, int b, int h) {
    const uint8x16_t low = field(load_bytes(p + offsetof(BlockQ5K, qs) + 32 * (b / 2) + 16 * h), 4 * (b % 2), 15);
    return vorrq_u8(low, vshlq_n_u8(field(load_bytes(p + offsetof(BlockQ5K, qh) + 16 * h), b, 1), 4));
  }
  static void unpack(const uint8_t* const* row, size_t at, Unpacked<Q5_K>* out) { unpack_six_bits(row, at, out); }
};

// Integer scales of 16 elements each: F::scale_bytes(p) gives a row's 16 signed bytes.
template <class F>
inline void unpack_halves(const uint8_t* const* row, size_t at, size_t d_at, Unpacked<F>* out) {
  uint8x16_t bytes[4];
  uint32x4_t v[4];
  each<4>([&](auto r) { bytes[r] = F::scale_bytes(row[r] + at); });
  transpose_bytes(bytes, v);
  const float32x4_t d = load_halves(row, at + d_at);
  each<8>([&](auto b) {
    vst1q_f32(out[b].d, d);
    each<2>([&](auto h) { vst1q_s32(out[b].scale[h], signed_byte_of(v[b / 2], b % 2 * 2 + h)); });
  });
  unpack_weights<F>(row, at, out);
}

struct Q6_K : FormatOf<8, sizeof(BlockQ6K), false, 32, true, 0> {
  static uint8x16_t scale_bytes(const uint8_t* p) { return load_bytes(p + offsetof(BlockQ6K, scales)); }
  static uint8x16_t weights(const uint8_t* p, int b, int h) {
    const uint8_t* low = p + offsetof(BlockQ6K, ql) + 64 * (b / 4) + 32 * (b % 2) + 16 * h;
    const uint8_t* high = p + offsetof(BlockQ6K, qh) + 32 * (b / 4) + 16 * h;
    return vorrq_u8(field(load_bytes(low), b % 4 < 2 ? 0 : 4, 15),
                    vshlq_n_u8(field(load_bytes(high), 2 * (b % 4), 3), 4));
  }
  static void unpack(const uint8_t* const* row, size_t at, Unpacked<Q6_K>* out) {
    unpack_halves(row, at, offsetof(BlockQ6K, d), out);
  }
};
struct Q3_K : FormatOf<8, sizeof(BlockQ3K), false, 4, true, 0> {
  static uint8x16_t scale_bytes(const uint8_t* p) {
    const uint8_t* s = p + offsetof(BlockQ3K, scales);
    const uint8x8_t first = vld1_u8(s);
    uint32_t last;
    std::memcpy(&last, s + 8, sizeof(last));
    const int32x4_t shifts = vcombine_s32(vcreate_s32(0xfffffffe00000000u), vcreate_s32(0xfffffffafffffffcu));
    const uint8x16_t low = vcombine_u8(vand_u8(first, vdup_n_u8(15)), vshr_n_u8(first, 4));
    const uint8x16_t high = vandq_u8(vreinterpretq_u8_u32(vshlq_u32(vdupq_n_u32(last), shifts)), vdupq_n_u8(3));
    return vsubq_u8(vorrq_u8(low, vshlq_n_u8(high, 4)), vdupq_n_u8(32));
  }
  static uint8x16_t weights(const uint8_t* p, int b, int h) {
    const uint8x16_t low = field(load_bytes(p + offsetof(BlockQ3K, qs) + 32 * (b / 4) + 16 * h), 2 * (b % 4), 3);
    return vorrq_u8(low, vshlq_n_u8(field(load_bytes(p + offsetof(BlockQ3K, hmask) + 16 * h), b, 1), 2));
  }
  static void unpack(const uint8_t* const* row, size_t at, Unpacked<Q3_K>* out) {
    unpack_halves(row, at, offsetof(BlockQ3K, d), out);
  }
};
struct Q2_K : FormatOf<8, sizeof(BlockQ2K), false, 0, true, 2> {
  static uint8x16_t scale_bytes(const uint8_t* p) { return vandq_u8(load_bytes(p), vdupq_n_u8(15)); }
  static uint8x16_t weights(const uint8_t* p, int b, int h) {
    return field(load_bytes(p + offsetof(BlockQ2K, qs) + 32 * (b / 4) + 16 * h), 2 * (b % 4), 3);
  }
  static void unpack(const uint8_t* const* row, size_t at, Unpacked<Q2_K>* out) {
    unpack_halves(row, at, offsetof(BlockQ2K, d), out);
    uint8x16_t bytes[4];
    uint32x4_t v[4];
    each<4>([&](auto r) { bytes[r] = vshrq_n_u8(load_bytes(row[r] + at), 4); });
    transpose_bytes(bytes, v);
    const float32x4_t dmin = vnegq_f32(load_halves(row, at + offsetof(BlockQ2K, dmin)));
    each<8>([&](auto b) {
      each<2>(
          [&](auto h) { vst1q_f32(out[b].min[h], vmulq_f32(dmin, vcvtq_f32_u32(byte_of(v[b / 2], b % 2 * 2 + h)))); });
    });
  }
};

// Calls f(DType, format) for every quantised type but Q8_0.
template <class Fn>
inline void each_format(Fn f) {
  f(DType::q4_0, Q4_0{});
  f(DType::q4_1, Q4_1{});
  f(DType::q5_0, Q5_0{});
  f(DType::q5_1, Q5_1{});
  f(DType::iq4_nl, Iq4Nl{});
  f(DType::q2_k, Q2_K{});
  f(DType::q3_k, Q3_K{});
  f(DType::q4_k, Q4_K{});
  f(DType::q5_k, Q5_K{});
  f(DType::q6_k, Q6_K{});
}

}  // namespace
}  // namespace lora_edge::neon
