#include "backend/cuda/images.h"

#if defined(__linux__)

// The text of ptx/FILE_SM.ptx, which the assembler takes in; a zero ends it.
#define LORA_EDGE_PTX(file, sm)                                                                                \
  extern "C" const char lora_edge_ptx_##file##_##sm[] __attribute__((visibility("hidden")));                   \
  __asm__(".pushsection .rodata\n.globl lora_edge_ptx_" #file "_" #sm "\n.hidden lora_edge_ptx_" #file "_" #sm \
          "\nlora_edge_ptx_" #file "_" #sm ":\n.incbin \"" LORA_EDGE_PTX_FOLDER "/" #file "_" #sm              \
          ".ptx\"\n.byte 0\n.popsection\n");
#define LORA_EDGE_IMAGE(file, sm) {#file, sm, lora_edge_ptx_##file##_##sm},
#define LORA_EDGE_FOR_EACH(X, file) X(file, 80) X(file, 75) X(file, 61) X(file, 53)
#define LORA_EDGE_ALL(X) \
  X(attention, 53)       \
  X(inputs, 53)          \
  X(likeliest, 53) X(rows, 53) X(matvec, 61) X(matvec, 53) LORA_EDGE_FOR_EACH(X, matmul) LORA_EDGE_FOR_EACH(X, peak)

LORA_EDGE_ALL(LORA_EDGE_PTX)

namespace lora_edge::cuda {

const Image* images(int* count) {
  static const Image kImages[] = {LORA_EDGE_ALL(LORA_EDGE_IMAGE)};
  *count = int(sizeof(kImages) / sizeof(kImages[0]));
  return kImages;
}

}  // namespace lora_edge::cuda

#else  // other systems' drivers aren't looked for

namespace lora_edge::cuda {

const Image* images(int* count) {
  *count = 0;
  return nullptr;
}

}  // namespace lora_edge::cuda

#endif
