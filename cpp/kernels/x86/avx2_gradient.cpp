// The gradient of a linear's input on AVX2: vpmaddwd makes 16 multiply-adds, twice those of a float's.
#include "kernels/x86/gradient_span.h"

namespace lora_edge::avx2 {
namespace {

// Registers: 6 rows x 2 of sums, 2 of weights, a pair of dY, products.
struct Words : Words256 {
  static Sums add(Sums sum, __m256i w, __m256i pair) {
    // An asm, as GCC would regroup the sums and spill them.
    asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(_mm256_madd_epi16(w, pair)));
    return sum;
  }
};

}  // namespace

void install_gradient(Table& t) {
  install_gradient<Words>(t);
  t.quantize_q16 = quantize_q16;
}

}  // namespace lora_edge::avx2
