// The kernels as PTX, made from kernels/*.cu by tools/cuda/make_ptx.sh: some files for several generations of GPUs.
#pragma once

namespace lora_edge::cuda {

struct Image {
  const char* file;  // of the kernels
  int capability;    // the least that it runs on: 61 for 6.1
  const char* text;
};

// A file's images are neighbours, from the newest generation to the oldest.
const Image* images(int* count);

}  // namespace lora_edge::cuda
