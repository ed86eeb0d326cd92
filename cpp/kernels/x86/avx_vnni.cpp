// Q8_0 matmul with the byte dot products of AVX-VNNI (Alder Lake, Sierra Forest and later, which lack AVX-512).
//
// vpdpbusd adds four products of unsigned by signed bytes to each 32-bit sum: w + 128, unsigned, by x. That is too
// large by 128 times the sum of x's block.
#if !defined(LORA_EDGE_EMULATE_VNNI) && !defined(__AVXVNNI__)
#error "built with -mavxvnni only"
#endif
#include "kernels/peak.h"
#include "kernels/x86/q8_panel.h"

namespace lora_edge::avx_vnni {
namespace {

using namespace lora_edge::avx2;  // NOLINT: the helpers are this file's own copy

struct Products {
  static constexpr bool kFlipped = true;

  static __m256i few(__m256i w, __m256i x) { return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), flip(w), x); }

  using Block = FlippedBlock;
  using Rows = __m256i;
  static Rows rows(const Block& block, int e, int h) { return load_bytes(block.w[e][h]); }
  static __m256i begin(const Block&, int, int32_t xs) { return _mm256_set1_epi32(-128 * xs); }
  static __m256i add(__m256i sum, Rows w, __m256i x) {
    sum = _mm256_dpbusd_avx_epi32(sum, w, x);
    asm("" : "+x"(sum));  // else GCC regroups the sums and spills them
    return sum;
  }

  // Registers: 6 tokens x 2 of sums, 2 of weights, x. A dot product takes 5 cycles and two can begin in each: 10
  // independent sums would do. The float sums are touched once per block and may live on the stack.
  static constexpr int kTokens = 6;
  template <int n>
  static void tile(const Tile<Block>& t) {
    tile8<Products, n>(t);
  }
};

}  // namespace

void install(Table& t) {
  t.name = "avx_vnni";
  t.matmul[static_cast<int>(DType::q8_0)] = matmul_q8<Products>;
#if !defined(LORA_EDGE_EMULATE_VNNI)
  t.int8_peak = int8_peak;
#endif
}

}  // namespace lora_edge::avx_vnni
