// Table::int8_peak of each table: the instructions with which its Q8_0 products multiply, on registers alone. How fast
// they run says how fast a matrix product could be at most. A file of its own per table, as loops this short depend on
// what the compiler makes of their neighbours.
#pragma once

#include <cstdint>

namespace lora_edge {
namespace ref {
int64_t int8_peak(int rounds);
}
namespace avx2 {
int64_t int8_peak(int rounds);
}
namespace avx_vnni {
int64_t int8_peak(int rounds);
}
namespace avx512_vnni {
int64_t int8_peak(int rounds);
}
namespace neon {
int64_t int8_peak(int rounds);
}
namespace neon_dotprod {
int64_t int8_peak(int rounds);
}
namespace neon_i8mm {
int64_t int8_peak(int rounds);
}

namespace {

// A vector that the compiler may assume nothing of from here on: what made it has to be done, and done here. Costs no
// instruction.
template <class V>
inline void opaque(V& v) {
#if defined(__x86_64__)
  asm volatile("" : "+v"(v));
#else
  asm volatile("" : "+w"(v));
#endif
}

}  // namespace
}  // namespace lora_edge
