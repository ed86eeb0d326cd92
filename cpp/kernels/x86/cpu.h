// Which instruction sets this x86 CPU has and its operating system keeps the registers of, by CPUID itself:
// __builtin_cpu_supports knows "f16c" from GCC 11 on only, and what it answers depends on the runtime library that is
// linked.
#pragma once

#include <cpuid.h>

namespace lora_edge::x86 {

struct Registers {
  unsigned a, b, c, d;
};

// A leaf of CPUID; zeros where this CPU has no such leaf.
inline Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r{};
  if (!__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d)) return {};
  return r;
}

template <class... Bit>
bool has_bits(unsigned word, Bit... bit) {
  return (... && ((word >> bit & 1u) != 0));
}

// XCR0: the register states that the operating system saves. Only where CPUID has OSXSAVE.
inline unsigned saved_states() {
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

inline bool has_avx2() {
  const unsigned one = cpuid(1, 0).c;
  return has_bits(one, 12, 27, 28, 29)      // FMA, OSXSAVE, AVX, F16C
         && has_bits(saved_states(), 1, 2)  // xmm, ymm
         && has_bits(cpuid(7, 0).b, 5);     // AVX2
}

inline bool has_avx_vnni() { return has_avx2() && has_bits(cpuid(7, 1).a, 4); }

inline bool has_avx512_vnni() {
  const Registers seven = cpuid(7, 0);
  return has_avx2() && has_bits(saved_states(), 5, 6, 7)  // masks, zmm0-15, zmm16-31
         && has_bits(seven.b, 16, 30, 31)                 // AVX-512 F, BW, VL
         && has_bits(seven.c, 11);                        // AVX-512 VNNI
}

}  // namespace lora_edge::x86
