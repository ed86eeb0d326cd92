// What the bytes of each quantised type's blocks (blocks.h) mean.
#pragma once

#include <type_traits>

#include "formats/blocks.h"

namespace lora_edge {

// 32 weights: value i = d · scale[h] · q[i] + dmin · min[h], where h = i / 16 is its half.
struct Unpacked {
  int q[kBlock];
  float d;
  int scale[2] = {1, 1};
  float dmin = 0.0f;
  int min[2] = {1, 1};
};

template <class Block>
Block load_block(const uint8_t* p) {
  Block block;
  std::memcpy(&block, p, sizeof(block));
  return block;
}

inline int nibble(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }
inline int bit(const uint8_t* bits, int i) { return bits[i / 8] >> i % 8 & 1; }

// Scale and min of block b of Q4_K and Q5_K: the first four have 6 bits of a byte each; of the last four the low four
// bits share a byte, and the high two are the high ones of the first four's.
inline void sub_scales(const uint8_t* s, int b, int* scale, int* min) {
  *scale = b < 4 ? s[b] & 63 : (s[b + 4] & 15) | s[b - 4] >> 6 << 4;
  *min = b < 4 ? s[b + 4] & 63 : s[b + 4] >> 4 | s[b] >> 6 << 4;
}

// Block b of a row.
template <DType type>
Unpacked unpack(const uint8_t* row, int b) {
  constexpr bool super = type >= DType::q2_k;
  const uint8_t* p = row + static_cast<size_t>(super ? b / 8 : b) * block_size(type).bytes;
  b %= 8;
  Unpacked u;
  if constexpr (type == DType::q8_0) {
    const auto block = load_block<BlockQ8_0>(p);
    u.d = f16_to_f32(block.d);
    for (int i = 0; i < kBlock; ++i) u.q[i] = block.qs[i];
  } else if constexpr (type == DType::q4_0) {
    const auto block = load_block<BlockQ4_0>(p);
    u.d = f16_to_f32(block.d);
    for (int i = 0; i < kBlock; ++i) u.q[i] = nibble(block.qs, i) - 8;
  } else if constexpr (type == DType::iq4_nl) {
    const auto block = load_block<BlockIq4Nl>(p);
    u.d = f16_to_f32(block.d);
    for (int i = 0; i < kBlock; ++i) u.q[i] = kIq4Nl[nibble(block.qs, i)];
  } else if constexpr (type == DType::q4_1) {
    const auto block = load_block<BlockQ4_1>(p);
    u.d = f16_to_f32(block.d);
    u.dmin = f16_to_f32(block.m);
    for (int i = 0; i < kBlock; ++i) u.q[i] = nibble(block.qs, i);
  } else if constexpr (type == DType::q5_0) {
    const auto block = load_block<BlockQ5_0>(p);
    u.d = f16_to_f32(block.d);
    for (int i = 0; i < kBlock; ++i) u.q[i] = (nibble(block.qs, i) | bit(block.qh, i) << 4) - 16;
  } else if constexpr (type == DType::q5_1) {
    const auto block = load_block<BlockQ5_1>(p);
    u.d = f16_to_f32(block.d);
    u.dmin = f16_to_f32(block.m);
    for (int i = 0; i < kBlock; ++i) u.q[i] = nibble(block.qs, i) | bit(block.qh, i) << 4;
  } else if constexpr (type == DType::q2_k) {
    const auto block = load_block<BlockQ2K>(p);
    u.d = f16_to_f32(block.d);
    u.dmin = -f16_to_f32(block.dmin);
    for (int h = 0; h < 2; ++h) {
      u.scale[h] = block.scales[2 * b + h] & 15;
      u.min[h] = block.scales[2 * b + h] >> 4;
    }
    for (int i = 0; i < kBlock; ++i) u.q[i] = block.qs[b / 4 * 32 + i] >> 2 * (b % 4) & 3;
  } else if constexpr (type == DType::q3_k) {
    const auto block = load_block<BlockQ3K>(p);
    u.d = f16_to_f32(block.d);
    for (int h = 0; h < 2; ++h) {
      const int s = 2 * b + h;
      const int low = s < 8 ? block.scales[s] & 15 : block.scales[s - 8] >> 4;
      u.scale[h] = (low | (block.scales[8 + s % 4] >> 2 * (s / 4) & 3) << 4) - 32;
    }
    for (int i = 0; i < kBlock; ++i)
      u.q[i] = ((block.qs[b / 4 * 32 + i] >> 2 * (b % 4) & 3) | (block.hmask[i] >> b & 1) << 2) - 4;
  } else if constexpr (type == DType::q4_k || type == DType::q5_k) {
    using Block = std::conditional_t<type == DType::q4_k, BlockQ4K, BlockQ5K>;
    const auto block = load_block<Block>(p);
    sub_scales(block.scales, b, &u.scale[0], &u.min[0]);
    u.scale[1] = u.scale[0];
    u.min[1] = u.min[0];
    u.d = f16_to_f32(block.d);
    u.dmin = -f16_to_f32(block.dmin);
    for (int i = 0; i < kBlock; ++i) u.q[i] = block.qs[b / 2 * 32 + i] >> 4 * (b % 2) & 15;
    if constexpr (type == DType::q5_k)
      for (int i = 0; i < kBlock; ++i) u.q[i] |= (block.qh[i] >> b & 1) << 4;
  } else {
    static_assert(type == DType::q6_k, "each type has its own meaning");
    const auto block = load_block<BlockQ6K>(p);
    u.d = f16_to_f32(block.d);
    for (int h = 0; h < 2; ++h) u.scale[h] = block.scales[2 * b + h];
    for (int i = 0; i < kBlock; ++i) {
      const int low = block.ql[b / 4 * 64 + b % 2 * 32 + i] >> (b % 4 < 2 ? 0 : 4) & 15;
      u.q[i] = (low | (block.qh[b / 4 * 32 + i] >> 2 * (b % 4) & 3) << 4) - 32;
    }
  }
  return u;
}

// Whether its two scales are a block's own integers; else d · scale is one number.
constexpr bool has_halves(DType type) { return type == DType::q2_k || type == DType::q3_k || type == DType::q6_k; }

// Minima of a block: none, one, or one of each half.
constexpr int minima(DType type) {
  return type == DType::q2_k                                                                        ? 2
         : type == DType::q4_1 || type == DType::q5_1 || type == DType::q4_k || type == DType::q5_k ? 1
                                                                                                    : 0;
}

}  // namespace lora_edge
