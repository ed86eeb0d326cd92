// The number formats of weights as they lie in a GGUF file: ggml's blocks, and IEEE and bfloat halves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace lora_edge {

enum class DType { f32 = 0, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, iq4_nl, q2_k, q3_k, q4_k, q5_k, q6_k };
constexpr int kDTypes = 14;

inline const char* dtype_name(DType type) {
  constexpr const char* kNames[kDTypes] = {"f32",  "f16",    "bf16", "q8_0", "q4_0", "q4_1", "q5_0",
                                           "q5_1", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"};
  return kNames[static_cast<int>(type)];
}

// Types of blocks, which multiply activations quantised to 8 bits; the others multiply floats.
inline bool is_quantised(DType type) { return type >= DType::q8_0; }

constexpr int kBlock = 32;   // elements of a quantised block
constexpr int kSuper = 256;  // elements of a super-block, which shares scales between its 8 blocks

// ggml's layouts. Scales d are IEEE halves. Of 4-bit numbers, element i < 16 of a block is the low half of byte i, and
// element 16 + i the high half.
struct BlockQ8_0 {
  uint16_t d;
  int8_t qs[kBlock];  // value = d · qs
};
struct BlockQ4_0 {
  uint16_t d;
  uint8_t qs[16];  // value = d · (q - 8)
};
struct BlockIq4Nl {
  uint16_t d;
  uint8_t qs[16];  // value = d · kIq4Nl[q]
};
struct BlockQ4_1 {
  uint16_t d, m;
  uint8_t qs[16];  // value = d · q + m
};
struct BlockQ5_0 {
  uint16_t d;
  uint8_t qh[4];   // bit i: the fifth bit of element i
  uint8_t qs[16];  // value = d · (q - 16)
};
struct BlockQ5_1 {
  uint16_t d, m;
  uint8_t qh[4];
  uint8_t qs[16];  // value = d · q + m
};
// Super-blocks. Elements come in runs whose fields interleave: element i of the 32 of block b is in byte 32 · (b / 2) +
// i of 4-bit fields (low half for even b), in byte 32 · (b / 4) + i of 2-bit fields (bits 2 · (b % 4)), and bit b of
// byte i of 1-bit fields. Of scales, sub-blocks are counted in order.
struct BlockQ2K {
  uint8_t scales[16];  // of 16 elements each: scale in the low half, min in the high half
  uint8_t qs[64];      // 2 bits; value = d · scale · q - dmin · min
  uint16_t d, dmin;
};
struct BlockQ3K {
  uint8_t hmask[32];   // the third bit
  uint8_t qs[64];      // 2 bits; value = d · (scale - 32) · (q - 4)
  uint8_t scales[12];  // 16 of 6 bits: low halves in bytes 0-7, as 4-bit numbers lie; 2 high bits in bytes 8-11
  uint16_t d;
};
struct BlockQ4K {
  uint16_t d, dmin;
  uint8_t scales[12];  // 8 scales and 8 mins of 6 bits, see unpack.h
  uint8_t qs[128];     // value = d · scale · q - dmin · min
};
struct BlockQ5K {
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t qh[32];   // the fifth bit
  uint8_t qs[128];  // value = d · scale · q - dmin · min
};
// Its 4-bit fields interleave otherwise: element i of block b is in byte 64 · (b / 4) + 32 · (b % 2) + i, low half for
// b % 4 < 2.
struct BlockQ6K {
  uint8_t ql[128];
  uint8_t qh[64];     // 2 high bits
  int8_t scales[16];  // of 16 elements each; value = d · scale · (q - 32)
  uint16_t d;
};
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18 && sizeof(BlockIq4Nl) == 18 &&
                  sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24 &&
                  sizeof(BlockQ2K) == 84 && sizeof(BlockQ3K) == 110 && sizeof(BlockQ4K) == 144 &&
                  sizeof(BlockQ5K) == 176 && sizeof(BlockQ6K) == 210,
              "blocks are packed in files");

// What IQ4_NL's numbers stand for: ggml's table of the format.
constexpr int8_t kIq4Nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// Elements and bytes of the blocks a type is stored in: 1 element for floats.
struct BlockSize {
  size_t elements, bytes;
};
inline BlockSize block_size(DType type) {
  constexpr BlockSize kSizes[kDTypes] = {
      {1, 4},
      {1, 2},
      {1, 2},
      {kBlock, sizeof(BlockQ8_0)},
      {kBlock, sizeof(BlockQ4_0)},
      {kBlock, sizeof(BlockQ4_1)},
      {kBlock, sizeof(BlockQ5_0)},
      {kBlock, sizeof(BlockQ5_1)},
      {kBlock, sizeof(BlockIq4Nl)},
      {kSuper, sizeof(BlockQ2K)},
      {kSuper, sizeof(BlockQ3K)},
      {kSuper, sizeof(BlockQ4K)},
      {kSuper, sizeof(BlockQ5K)},
      {kSuper, sizeof(BlockQ6K)},
  };
  return kSizes[static_cast<int>(type)];
}

// Bytes of a row of k elements, whole blocks.
inline size_t row_bytes(DType type, size_t k) {
  const BlockSize block = block_size(type);
  return k / block.elements * block.bytes;
}

inline float bits_to_f32(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

inline uint32_t f32_to_bits(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bits;
}

inline float bf16_to_f32(uint16_t h) { return bits_to_f32(static_cast<uint32_t>(h) << 16); }

inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exp = (h >> 10) & 0x1f, man = h & 0x3ffu;
  if (exp == 0x1f) return bits_to_f32(sign | 0x7f800000u | man << 13);
  if (exp != 0) return bits_to_f32(sign | (exp + 112) << 23 | man << 13);
  const float f = static_cast<float>(man) * 0x1p-24f;  // subnormal: exact
  return sign ? -f : f;
}

// Round to nearest even, as the hardware conversions do.
inline uint16_t f32_to_f16(float f) {
  const uint32_t bits = f32_to_bits(f);
  const uint32_t sign = (bits >> 16) & 0x8000u, abs = bits & 0x7fffffffu;
  if (abs > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((abs >> 13) & 0x3ffu));  // NaN stays NaN
  if (abs >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);                          // >= 65536: infinity
  if (abs < 0x38800000u) {  // below 2^-14: add so that the subnormal's last bit becomes the sum's
    const float sum = bits_to_f32(abs) + 0.5f;
    return static_cast<uint16_t>(sign | (f32_to_bits(sum) - 0x3f000000u));
  }
  const uint32_t odd = (abs >> 13) & 1;
  return static_cast<uint16_t>(sign | ((abs - 0x38000000u + 0xfffu + odd) >> 13));
}

}  // namespace lora_edge
