// The number formats of weights as they lie in a GGUF file. Format: ggml's block_q8_0 and IEEE/bfloat halves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace lora_edge {

enum class DType { f32 = 0, f16 = 1, bf16 = 2, q8_0 = 3 };
constexpr int kDTypes = 4;

inline const char* dtype_name(DType type) {
  constexpr const char* kNames[kDTypes] = {"f32", "f16", "bf16", "q8_0"};
  return kNames[static_cast<int>(type)];
}

constexpr int kBlock = 32;  // elements of a quantised block

struct BlockQ8_0 {
  uint16_t d;         // scale, IEEE half
  int8_t qs[kBlock];  // value = d · qs
};
static_assert(sizeof(BlockQ8_0) == 34, "blocks are packed in files");

// Bytes of a row of k elements; k % kBlock == 0 for q8_0.
inline size_t row_bytes(DType type, size_t k) {
  switch (type) {
    case DType::f32: return k * 4;
    case DType::q8_0: return k / kBlock * sizeof(BlockQ8_0);
    default: return k * 2;
  }
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
