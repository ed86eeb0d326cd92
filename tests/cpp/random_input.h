// Structured random input for kernels: ordinary values as well as those that break careless code.
#pragma once

#include <cmath>
#include <random>

#include "formats/blocks.h"
#include "guarded.h"

namespace lora_edge {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  uint32_t bits() { return static_cast<uint32_t>(engine_() >> 16); }
  int range(int lo, int hi) {  // [lo, hi]
    return lo + static_cast<int>(bits() % static_cast<uint32_t>(hi - lo + 1));
  }
  bool chance(int one_in) { return range(1, one_in) == 1; }
  float uniform() { return static_cast<float>(bits() >> 8) * 0x1p-23f - 1.0f; }  // [-1, 1)
  template <size_t N>
  int pick(const int (&values)[N]) {
    return values[range(0, static_cast<int>(N) - 1)];
  }
  // Small and odd sizes often, up to `most`.
  int size(int most) {
    const int few[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65};
    const int n = chance(2) ? pick(few) : range(1, most);
    return n < most ? n : most;
  }

 private:
  std::mt19937_64 engine_;
};

// What an array is made of; drawn once per array.
enum class Fill { ordinary, sparse, zeros, subnormal, wide, large, logits, tiny, negative_tiny, raw_bits, count };

inline Fill random_fill(Random& r) {
  if (r.chance(2)) return Fill::ordinary;
  return static_cast<Fill>(r.range(0, static_cast<int>(Fill::count) - 1));
}

// NaNs as arithmetic makes them: for signalling ones compilers and CPUs differ in what max(|x|, 0) is.
inline float quiet(uint32_t bits) { return bits_to_f32((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : bits); }

inline float random_float(Random& r, Fill fill) {
  switch (fill) {
    case Fill::sparse: return r.chance(3) ? r.uniform() : r.chance(2) ? 0.0f : -0.0f;
    case Fill::zeros: return r.chance(2) ? 0.0f : -0.0f;
    case Fill::subnormal: return bits_to_f32((r.bits() & 0x80ffffffu));
    case Fill::wide: return std::ldexp(r.uniform(), r.range(-60, 30));
    case Fill::large: return r.uniform() * 1e18f;
    case Fill::logits: return r.uniform() * 120.0f;
    case Fill::tiny: return bits_to_f32(r.bits() & 0x3ffu);  // products round to 0, and where negative to -0
    case Fill::negative_tiny: return bits_to_f32(0x80000000u | (r.bits() & 0x3ffu));
    case Fill::raw_bits: return quiet(r.bits());  // infinities and NaNs too
    default: return r.uniform();
  }
}

inline uint16_t random_f16(Random& r, Fill fill) {
  switch (fill) {
    case Fill::subnormal: return static_cast<uint16_t>(r.bits() & 0x87ffu);
    case Fill::wide:
    case Fill::large: {
      const uint16_t h = static_cast<uint16_t>(r.bits());
      return (h & 0x7c00) == 0x7c00 ? static_cast<uint16_t>(h & 0xbfff) : h;  // finite
    }
    case Fill::tiny: return static_cast<uint16_t>(r.bits() & 0x3ffu);
    case Fill::negative_tiny: return static_cast<uint16_t>(0x8000u | (r.bits() & 0x3ffu));
    case Fill::raw_bits: return static_cast<uint16_t>(r.bits());
    default: return f32_to_f16(random_float(r, fill));
  }
}

inline void fill_floats(Random& r, const Guarded<float>& a) {
  const Fill fill = random_fill(r);
  for (float& v : a) v = random_float(r, fill);
}

// Elements of `type`, of floats, over the whole array.
inline void fill_elements(Random& r, DType type, uint8_t* out, size_t count) {
  const Fill fill = random_fill(r);
  for (size_t i = 0; i < count; ++i) {
    const float f = random_float(r, fill);
    const uint16_t h = type == DType::f16 ? random_f16(r, fill) : static_cast<uint16_t>(f32_to_bits(f) >> 16);
    if (type == DType::f32)
      std::memcpy(out + i * 4, &f, 4);
    else
      std::memcpy(out + i * 2, &h, 2);
  }
}

// int8 in [lo, 127]; blocks of one extreme, of zeros, of anything.
inline void fill_int8(Random& r, int8_t* out, size_t count, int lo) {
  int kind = 0;
  for (size_t i = 0; i < count; ++i) {
    if (i % kBlock == 0) kind = r.range(0, 7);
    switch (kind) {
      case 0: out[i] = static_cast<int8_t>(lo); break;
      case 1: out[i] = 127; break;
      case 2: out[i] = 0; break;
      case 3: out[i] = static_cast<int8_t>(r.chance(2) ? lo : 127); break;
      default: out[i] = static_cast<int8_t>(r.range(lo, 127));
    }
  }
}

// A row of k elements in blocks: any bytes, or blocks of one extreme, and halves where scales lie.
inline void fill_blocks(Random& r, DType type, uint8_t* out, size_t k) {
  const Fill fill = random_fill(r);
  const BlockSize size = block_size(type);
  const auto set_half = [&](size_t at) {
    const uint16_t half = random_f16(r, fill);
    std::memcpy(out + at, &half, sizeof(half));
  };
  for (; k > 0; k -= size.elements, out += size.bytes) {
    fill_int8(r, reinterpret_cast<int8_t*>(out), size.bytes, -128);
    const bool last = type == DType::q2_k || type == DType::q3_k || type == DType::q6_k;
    const bool two =
        type == DType::q4_1 || type == DType::q5_1 || type == DType::q2_k || type == DType::q4_k || type == DType::q5_k;
    const size_t at = last ? size.bytes - (two ? 4 : 2) : 0;
    set_half(at);
    if (two) set_half(at + 2);
  }
}

}  // namespace lora_edge
