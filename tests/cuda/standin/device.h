// What CUDA kernels are written in, for the CPU: the names of cpp/backend/cuda/kernels/device.h. This file is included
// before any .cu file, and has the other's guard, so that kernels that include "device.h" get this one.
#ifndef LORA_EDGE_CUDA_DEVICE_H
#define LORA_EDGE_CUDA_DEVICE_H

#include <cstdint>
#include <cstring>

#include "thread.h"

#define DEVICE inline
#define HAS_MMA_S8 1
#define EVERY_KERNEL  // not just those that a GPU with HAS_MMA_S8 needs

// A kernel: the code of one thread, which sees its one argument, a struct, as `a`.
#define KERNEL(name, Args, threads)                                                                       \
  static void name##_thread(const Args& a);                                                               \
  static const lora_edge::standin::Registration name##_kernel(                                            \
      #name, sizeof(Args), threads, +[](const void* a) { name##_thread(*static_cast<const Args*>(a)); }); \
  static void name##_thread([[maybe_unused]] const Args& a)

// Shared memory is the one thing in the stand-in that is thread_local: block.cpp finds all of it that way.
#define SHARED static thread_local

inline unsigned char* dynamic_shared() { return lora_edge::standin::place.dynamic_shared; }

inline int thread_id() { return lora_edge::standin::place.thread; }
inline int n_threads() { return lora_edge::standin::place.threads; }
inline int block_x() { return lora_edge::standin::place.block[0]; }
inline int block_y() { return lora_edge::standin::place.block[1]; }
inline int block_z() { return lora_edge::standin::place.block[2]; }
inline int grid_x() { return lora_edge::standin::place.grid[0]; }
inline int grid_y() { return lora_edge::standin::place.grid[1]; }
inline int grid_z() { return lora_edge::standin::place.grid[2]; }

inline void sync() { lora_edge::standin::wait(lora_edge::standin::Wait::block); }
inline void sync_warp() { lora_edge::standin::wait(lora_edge::standin::Wait::warp); }

inline float bits_to_float(unsigned bits) {
  float v;
  std::memcpy(&v, &bits, sizeof(v));
  return v;
}
inline unsigned float_to_bits(float v) {
  unsigned bits;
  std::memcpy(&bits, &v, sizeof(bits));
  return bits;
}

inline unsigned shuffle(unsigned v, int lane) { return lora_edge::standin::shuffle_bits(v, lane); }
inline int shuffle(int v, int lane) { return static_cast<int>(shuffle(static_cast<unsigned>(v), lane)); }
inline float shuffle(float v, int lane) { return bits_to_float(shuffle(float_to_bits(v), lane)); }
template <class T>
inline T shuffle_xor(T v, int mask) {
  return shuffle(v, (thread_id() ^ mask) & 31);
}

// c + the sum of the products of four signed bytes, modulo 2^32.
inline int dot4(int a, int b, int c) {
  unsigned sum = static_cast<unsigned>(c);
  for (int i = 0; i < 32; i += 8) {
    sum += static_cast<unsigned>(static_cast<int8_t>(static_cast<unsigned>(a) >> i) *
                                 static_cast<int8_t>(static_cast<unsigned>(b) >> i));
  }
  return static_cast<int>(sum);
}
inline void mma_s8(int c[4], const unsigned a[4], const unsigned b[2]) { lora_edge::standin::mma_fragments(c, a, b); }

inline float half_to_float(unsigned short h) {
  const unsigned sign = (h & 0x8000u) << 16, exponent = h >> 10 & 31u, fraction = h & 0x3ffu;
  if (exponent == 31) return bits_to_float(fraction ? 0x7fffffffu : sign | 0x7f800000u);
  if (exponent) return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
  const float v = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -v : v;
}

// Rounds to nearest, ties to even; NaN becomes 0x7fff.
inline unsigned short float_to_half(float v) {
  const unsigned bits = float_to_bits(v), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  unsigned half;
  if (magnitude >= 0x477ff000u)  // 65520 and more
    half = 0x7c00u;
  else if (magnitude < 0x38800000u)  // below 2^-14 the step is 2^-24, as it is of floats from 0.5
    half = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
  else
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  return static_cast<unsigned short>(sign | half);
}

inline float fma_(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float sqrt_(float v) { return __builtin_sqrtf(v); }
inline float round_(float v) { return __builtin_nearbyintf(v); }

// Threads run one at a time.
inline int atomic_add(int* p, int v) {
  const int before = *p;
  *p = static_cast<int>(static_cast<unsigned>(before) + static_cast<unsigned>(v));
  return before;
}

template <class T>
inline T load_cached(const T* p) {
  static_assert(sizeof(T) == alignof(T) && sizeof(T) <= 16, "not what one load reads");
  return *p;
}

#endif
