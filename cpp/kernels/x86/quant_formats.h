// How AVX2 reads the blocks of each quantised type (blocks.h): 8 rows side by side. Included, like avx2_common.h, as
// each file's own copy.
//
// A format F says, for a file's block of kBlocks blocks of 32 in kBytes:
//   kSigned          weights are any signed bytes; else unsigned, at most kMost, and kOffset too large
//   kHalves          integer scales serve 16 elements each
//   kMins            minima per block: 0, 1, or 2 (one per half)
//   weights(p, b)    block b of the file's block at p
//   Scales(row, at)  of 8 rows' blocks `at` bytes into the rows:
//     d(b)             floats that multiply block b's integers
//     pairs(b)         kHalves: the scales of both halves as 16-bit integers, a pair per row
//     half(b, h)       kHalves: the scale of half h as a 16-bit integer, twice per row
//     min(b, h)        kMins: what is added times Σx
#pragma once

#include "kernels/x86/avx2_common.h"

namespace lora_edge::avx2 {
namespace {

constexpr size_t kScaleBytes = sizeof(uint16_t);

inline __m256i load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m128i load_half(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

inline int load_i32(const void* p) {
  int v;
  std::memcpy(&v, p, 4);
  return v;
}

// Eight halves, one per row, as floats.
inline __m256 load_scales(const uint8_t* const* row, size_t offset) {
  short d[8];
  for (int r = 0; r < 8; ++r) std::memcpy(&d[r], row[r] + offset, kScaleBytes);
  return _mm256_cvtph_ps(_mm_setr_epi16(d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]));
}

// Bytes shifted right by `from` and left by `to`; `mask`, of the result, leaves out what comes in from a neighbour.
// One shift does both, none where they are equal.
inline __m256i field(__m256i v, int from, int to, int mask) {
  if (from > to) v = _mm256_srli_epi16(v, from - to);
  if (from < to) v = _mm256_slli_epi16(v, to - from);
  return _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(mask)));
}

// 4-bit numbers of a block of 32: the low halves, then the high ones.
inline __m256i nibbles(const uint8_t* p) {
  const __m128i v = load_half(p);
  return _mm256_and_si256(_mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1),
                          _mm256_set1_epi8(15));
}

// 16 in each byte whose bit is set.
inline __m256i fifth_bits(const uint8_t* p) {
  const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(load_i32(p)), spread);
  const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
  return _mm256_and_si256(set, _mm256_set1_epi8(16));
}

// v[g] comes to hold bytes 4g to 4g + 3 of each of 8 rows' 16 bytes.
inline void transpose_16(const __m128i* row, __m256i* v) {
  __m256i two[4];
  for (int r = 0; r < 4; ++r) two[r] = _mm256_inserti128_si256(_mm256_castsi128_si256(row[r]), row[r + 4], 1);
  const __m256i a = _mm256_unpacklo_epi32(two[0], two[1]), b = _mm256_unpackhi_epi32(two[0], two[1]);
  const __m256i c = _mm256_unpacklo_epi32(two[2], two[3]), d = _mm256_unpackhi_epi32(two[2], two[3]);
  v[0] = _mm256_unpacklo_epi64(a, c);
  v[1] = _mm256_unpackhi_epi64(a, c);
  v[2] = _mm256_unpacklo_epi64(b, d);
  v[3] = _mm256_unpackhi_epi64(b, d);
}

inline __m256 negative(__m256 v) { return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f)); }

// Byte b of 4 in each lane, unsigned, as float.
inline __m256 byte_as_float(__m256i v, int b) {
  const __m256i first = _mm256_broadcastsi128_si256(_mm_setr_epi32(-256, -252, -248, -244));  // 0, 4, 8, 12; -1: zero
  return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(v, _mm256_add_epi32(first, _mm256_set1_epi32(b))));
}

template <int blocks, size_t bytes, bool is_signed, int most, int offset, bool halves, int mins>
struct FormatOf {
  static constexpr int kBlocks = blocks;
  static constexpr size_t kBytes = bytes;
  static constexpr bool kSigned = is_signed;
  static constexpr int kMost = most, kOffset = offset;
  static constexpr bool kHalves = halves;
  static constexpr int kMins = mins;
};

// ---- blocks of 32 ----

struct OneScale {
  OneScale(const uint8_t* const* rows, size_t offset) : row(rows), at(offset) {}
  __m256 d(int) const { return load_scales(row, at); }  // when it is needed: behind the products
  const uint8_t* const* row;
  size_t at;
};

struct ScaleAndMin {
  ScaleAndMin(const uint8_t* const* row, size_t at)
      : scale(load_scales(row, at)), minimum(load_scales(row, at + kScaleBytes)) {}
  __m256 d(int) const { return scale; }
  __m256 min(int, int) const { return minimum; }
  __m256 scale, minimum;
};

struct Q8_0 : FormatOf<1, sizeof(BlockQ8_0), true, 128, 0, false, 0> {
  using Scales = OneScale;
  static __m256i weights(const uint8_t* p, int) { return load_bytes(p + offsetof(BlockQ8_0, qs)); }
};

struct Iq4Nl : FormatOf<1, sizeof(BlockIq4Nl), true, 128, 0, false, 0> {
  using Scales = OneScale;
  static __m256i weights(const uint8_t* p, int) {
    const __m256i table = _mm256_broadcastsi128_si256(load_half(kIq4Nl));
    return _mm256_shuffle_epi8(table, nibbles(p + offsetof(BlockIq4Nl, qs)));
  }
};

struct Q4_0 : FormatOf<1, sizeof(BlockQ4_0), false, 15, 8, false, 0> {
  using Scales = OneScale;
  static __m256i weights(const uint8_t* p, int) { return nibbles(p + offsetof(BlockQ4_0, qs)); }
};

struct Q4_1 : FormatOf<1, sizeof(BlockQ4_1), false, 15, 0, false, 1> {
  using Scales = ScaleAndMin;
  static __m256i weights(const uint8_t* p, int) { return nibbles(p + offsetof(BlockQ4_1, qs)); }
};

struct Q5_0 : FormatOf<1, sizeof(BlockQ5_0), false, 31, 16, false, 0> {
  using Scales = OneScale;
  static __m256i weights(const uint8_t* p, int) {
    return _mm256_or_si256(nibbles(p + offsetof(BlockQ5_0, qs)), fifth_bits(p + offsetof(BlockQ5_0, qh)));
  }
};

struct Q5_1 : FormatOf<1, sizeof(BlockQ5_1), false, 31, 0, false, 1> {
  using Scales = ScaleAndMin;
  static __m256i weights(const uint8_t* p, int) {
    return _mm256_or_si256(nibbles(p + offsetof(BlockQ5_1, qs)), fifth_bits(p + offsetof(BlockQ5_1, qh)));
  }
};

// ---- super-blocks of 8 ----

// Q4_K and Q5_K: d, dmin and the 12 bytes of scales are the first 16 bytes. Scales and minima of blocks 0-3 and 4-7, a
// byte each.
struct SixBitScales {
  SixBitScales(const uint8_t* const* row, size_t at)
      : scale_d(load_scales(row, at)), min_d(negative(load_scales(row, at + kScaleBytes))) {
    __m128i bytes[8];
    for (int r = 0; r < 8; ++r) bytes[r] = load_half(row[r] + at);
    __m256i v[4];
    transpose_16(bytes, v);
    const __m256i low6 = _mm256_set1_epi8(63), low4 = _mm256_set1_epi8(15), high2 = _mm256_set1_epi8(48);
    const auto high = [&](__m256i w) { return _mm256_and_si256(_mm256_srli_epi32(w, 2), high2); };
    scale[0] = _mm256_and_si256(v[1], low6);
    minimum[0] = _mm256_and_si256(v[2], low6);
    scale[1] = _mm256_or_si256(_mm256_and_si256(v[3], low4), high(v[1]));
    minimum[1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi32(v[3], 4), low4), high(v[2]));
  }
  __m256 d(int b) const { return _mm256_mul_ps(scale_d, byte_as_float(scale[b / 4], b % 4)); }
  __m256 min(int b, int) const { return _mm256_mul_ps(min_d, byte_as_float(minimum[b / 4], b % 4)); }
  __m256 scale_d, min_d;
  __m256i scale[2], minimum[2];
};

struct Q4_K : FormatOf<8, sizeof(BlockQ4K), false, 15, 0, false, 1> {
  using Scales = SixBitScales;
  static __m256i weights(const uint8_t* p, int b) {
    return field(load_bytes(p + offsetof(BlockQ4K, qs) + 32 * (b / 2)), 4 * (b % 2), 0, 15);
  }
};

struct Q5_K : FormatOf<8, sizeof(BlockQ5K), false, 31, 0, false, 1> {
  using Scales = SixBitScales;
  static __m256i weights(const uint8_t* p, int b) {
    const __m256i low = field(load_bytes(p + offsetof(BlockQ5K, qs) + 32 * (b / 2)), 4 * (b % 2), 0, 15);
    return _mm256_or_si256(low, field(load_bytes(p + offsetof(BlockQ5K, qh)), b, 4, 16));
  }
};

// Integer scales of 16 elements each: F::scale_bytes(p) gives the 16 signed bytes of a row's block.
template <class F, size_t d_at>
struct HalfScales {
  HalfScales(const uint8_t* const* row, size_t at) : scale_d(load_scales(row, at + d_at)) {
    __m128i bytes[8];
    for (int r = 0; r < 8; ++r) bytes[r] = F::scale_bytes(row[r] + at);
    transpose_16(bytes, scale);
  }
  __m256 d(int) const { return scale_d; }
  __m256i pairs(int b) const {  // each byte to the high half of 16 bits, then down again
    const __m256i two = _mm256_srli_epi32(scale[b / 2], 16 * (b % 2));
    const __m256i spread =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13));
    return _mm256_srai_epi16(_mm256_shuffle_epi8(two, spread), 8);
  }
  __m256i half(int b, int h) const {
    const __m256i first = _mm256_broadcastsi128_si256(_mm_setr_epi32(0x00800080, 0x04800480, 0x08800880, 0x0c800c80));
    const __m256i spread = _mm256_add_epi16(first, _mm256_set1_epi16(static_cast<short>((b % 2 * 2 + h) << 8)));
    return _mm256_srai_epi16(_mm256_shuffle_epi8(scale[b / 2], spread), 8);
  }
  __m256 scale_d;
  __m256i scale[4];
};

struct Q6_K : FormatOf<8, sizeof(BlockQ6K), false, 63, 32, true, 0> {
  using Scales = HalfScales<Q6_K, offsetof(BlockQ6K, d)>;
  static __m128i scale_bytes(const uint8_t* p) { return load_half(p + offsetof(BlockQ6K, scales)); }
  static __m256i weights(const uint8_t* p, int b) {
    const __m256i low =
        field(load_bytes(p + offsetof(BlockQ6K, ql) + 64 * (b / 4) + 32 * (b % 2)), b % 4 < 2 ? 0 : 4, 0, 15);
    return _mm256_or_si256(low, field(load_bytes(p + offsetof(BlockQ6K, qh) + 32 * (b / 4)), 2 * (b % 4), 4, 48));
  }
};

struct Q3_K : FormatOf<8, sizeof(BlockQ3K), false, 7, 4, true, 0> {
  using Scales = HalfScales<Q3_K, offsetof(BlockQ3K, d)>;
  static __m128i scale_bytes(const uint8_t* p) {
    const __m128i s = load_half(p + offsetof(BlockQ3K, d) + kScaleBytes - 16);  // the block's last 16 bytes
    const __m128i twice = _mm_shuffle_epi8(s, _mm_setr_epi8(2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7, 8, 9));
    const __m128i low = _mm_and_si128(_mm_blend_epi16(twice, _mm_srli_epi16(twice, 4), 0xf0), _mm_set1_epi8(15));
    const __m128i last = _mm_shuffle_epi32(_mm_srli_si128(s, 10), 0);
    const __m128i high = _mm_and_si128(_mm_srlv_epi32(last, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
    return _mm_sub_epi8(_mm_or_si128(low, _mm_slli_epi16(high, 4)), _mm_set1_epi8(32));
  }
  static __m256i weights(const uint8_t* p, int b) {
    const __m256i low = field(load_bytes(p + offsetof(BlockQ3K, qs) + 32 * (b / 4)), 2 * (b % 4), 0, 3);
    return _mm256_or_si256(low, field(load_bytes(p + offsetof(BlockQ3K, hmask)), b, 2, 4));
  }
};

struct Q2_K : FormatOf<8, sizeof(BlockQ2K), false, 3, 0, true, 2> {
  struct Scales : HalfScales<Q2_K, offsetof(BlockQ2K, d)> {
    Scales(const uint8_t* const* row, size_t at)
        : HalfScales(row, at), min_d(negative(load_scales(row, at + offsetof(BlockQ2K, dmin)))) {
      __m128i bytes[8];
      for (int r = 0; r < 8; ++r)
        bytes[r] = _mm_and_si128(_mm_srli_epi16(load_half(row[r] + at), 4), _mm_set1_epi8(15));
      transpose_16(bytes, minimum);
    }
    __m256 min(int b, int h) const { return _mm256_mul_ps(min_d, byte_as_float(minimum[b / 2], b % 2 * 2 + h)); }
    __m256 min_d;
    __m256i minimum[4];
  };
  static __m128i scale_bytes(const uint8_t* p) { return _mm_and_si128(load_half(p), _mm_set1_epi8(15)); }
  static __m256i weights(const uint8_t* p, int b) {
    return field(load_bytes(p + offsetof(BlockQ2K, qs) + 32 * (b / 4)), 2 * (b % 4), 0, 3);
  }
};

// Calls f(DType, format) for every quantised type.
template <class Fn>
inline void each_format(Fn f) {
  f(DType::q8_0, Q8_0{});
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
}  // namespace lora_edge::avx2
