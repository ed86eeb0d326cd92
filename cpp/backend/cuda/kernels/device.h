// What kernels are written in, for clang's PTX without a toolkit. tests/cuda/standin/device.h gives the same names on
// the CPU; it shares this file's guard, and is included first there. Blocks are one-dimensional, of whole warps. What a
// target lacks is made of what it has (dot4), or isn't declared (mma_s8, by HAS_MMA_S8). What a .cu file defines beside
// its kernels goes into an anonymous namespace: on the CPU the files are linked together.
//   clang++-19 -x cuda --cuda-device-only --cuda-gpu-arch=sm_61 --cuda-feature=+ptx60 --cuda-path=/nonexistent
//     -nocudainc -nocudalib -std=c++17 -O3 -ffp-contract=off -S
#ifndef LORA_EDGE_CUDA_DEVICE_H
#define LORA_EDGE_CUDA_DEVICE_H

#define DEVICE __attribute__((device, always_inline)) inline
#define SHARED __attribute__((shared))
#define HAS_MMA_S8 (__CUDA_ARCH__ >= 750)

// A kernel: the code of one thread of a block of at most `threads`, which sees its one argument, a struct, as `a`.
#define KERNEL(name, Args, threads) \
  extern "C" __attribute__((global, launch_bounds(threads, 1))) void name([[maybe_unused]] const Args a)

extern __attribute__((shared, aligned(16))) unsigned char lora_edge_dynamic_shared[];
DEVICE unsigned char* dynamic_shared() { return lora_edge_dynamic_shared; }

DEVICE int thread_id() { return static_cast<int>(__nvvm_read_ptx_sreg_tid_x()); }
DEVICE int n_threads() { return static_cast<int>(__nvvm_read_ptx_sreg_ntid_x()); }
DEVICE int block_x() { return static_cast<int>(__nvvm_read_ptx_sreg_ctaid_x()); }
DEVICE int block_y() { return static_cast<int>(__nvvm_read_ptx_sreg_ctaid_y()); }
DEVICE int block_z() { return static_cast<int>(__nvvm_read_ptx_sreg_ctaid_z()); }
DEVICE int grid_x() { return static_cast<int>(__nvvm_read_ptx_sreg_nctaid_x()); }
DEVICE int grid_y() { return static_cast<int>(__nvvm_read_ptx_sreg_nctaid_y()); }
DEVICE int grid_z() { return static_cast<int>(__nvvm_read_ptx_sreg_nctaid_z()); }

// Barriers of all threads of the block; of the 32 of the warp.
DEVICE void sync() { __syncthreads(); }
DEVICE void sync_warp() { __nvvm_bar_warp_sync(0xffffffffu); }

DEVICE float bits_to_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
DEVICE unsigned float_to_bits(float v) { return __builtin_bit_cast(unsigned, v); }

// v of another lane; all 32 take part.
DEVICE int shuffle(int v, int lane) { return __nvvm_shfl_sync_idx_i32(0xffffffffu, v, lane, 31); }
DEVICE unsigned shuffle(unsigned v, int lane) { return static_cast<unsigned>(shuffle(static_cast<int>(v), lane)); }
DEVICE float shuffle(float v, int lane) { return __nvvm_shfl_sync_idx_f32(0xffffffffu, v, lane, 31); }
DEVICE int shuffle_xor(int v, int mask) { return __nvvm_shfl_sync_bfly_i32(0xffffffffu, v, mask, 31); }
DEVICE unsigned shuffle_xor(unsigned v, int mask) {
  return static_cast<unsigned>(shuffle_xor(static_cast<int>(v), mask));
}
DEVICE float shuffle_xor(float v, int mask) { return __nvvm_shfl_sync_bfly_f32(0xffffffffu, v, mask, 31); }

// c + the sum of the products of four signed bytes, modulo 2^32.
DEVICE int dot4(int a, int b, int c) {
#if __CUDA_ARCH__ >= 610
  int sum;
  asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
#else
  // one piece for the compiler, which would keep every byte in a register of its own
  asm("{\n\t.reg .s32 x, y;\n\t"
      "bfe.s32 x, %1, 0, 8;\n\tbfe.s32 y, %2, 0, 8;\n\tmad.lo.s32 %0, x, y, %0;\n\t"
      "bfe.s32 x, %1, 8, 8;\n\tbfe.s32 y, %2, 8, 8;\n\tmad.lo.s32 %0, x, y, %0;\n\t"
      "bfe.s32 x, %1, 16, 8;\n\tbfe.s32 y, %2, 16, 8;\n\tmad.lo.s32 %0, x, y, %0;\n\t"
      "bfe.s32 x, %1, 24, 8;\n\tbfe.s32 y, %2, 24, 8;\n\tmad.lo.s32 %0, x, y, %0;\n\t}"
      : "+r"(c)
      : "r"(a), "r"(b));
  return c;
#endif
}

#if HAS_MMA_S8
// c += a·b of signed bytes, 16 × 32 by 32 × 8, all in fragments of the warp: mma.m16n8k32's layout. Lane l holds, with
// g = l / 4 and q = l % 4: of a, rows g (words 0, 2) and g + 8 (1, 3), columns 4 q + 0…3 (0, 1) and 16 more (2, 3); of
// b, column g, rows 4 q + 0…3 (0) and 16 more (1); of c, rows g (0, 1) and g + 8 (2, 3), columns 2 q (0, 2) and 2 q + 1
// (1, 3).
DEVICE void mma_s8(int c[4], const unsigned a[4], const unsigned b[2]) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  for (int i = 0; i < 4; ++i) {  // 8 rows, 16 of the depth
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[i % 2 * 2]), "+r"(c[i % 2 * 2 + 1])
        : "r"(a[i]), "r"(b[i / 2]));
  }
#endif
}
#endif

// f16, rounded to nearest, ties to even.
DEVICE float half_to_float(unsigned short h) {
  float v;
  asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(h));
  return v;
}
DEVICE unsigned short float_to_half(float v) {
  unsigned short h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
  return h;
}

DEVICE float fma_(float a, float b, float c) { return __nvvm_fma_rn_f(a, b, c); }
DEVICE float sqrt_(float v) { return __nvvm_sqrt_rn_f(v); }  // correctly rounded
DEVICE float round_(float v) { return __builtin_rintf(v); }  // to the nearest integer, ties to even

// What was there before.
DEVICE int atomic_add(int* p, int v) { return __nvvm_atom_add_gen_i(p, v); }

// Reads what no thread writes during the kernel (ld.global.nc): 1, 2, 4, 8 or 16 bytes, aligned to as many.
template <class T>
DEVICE T load_cached(const T* p) {
  using Words2 = unsigned __attribute__((ext_vector_type(2)));
  using Words4 = unsigned __attribute__((ext_vector_type(4)));
  static_assert(sizeof(T) == alignof(T) && sizeof(T) <= 16, "not what one load reads");
  if constexpr (sizeof(T) == 1)
    return __builtin_bit_cast(T, __nvvm_ldg_uc(reinterpret_cast<const unsigned char*>(p)));
  else if constexpr (sizeof(T) == 2)
    return __builtin_bit_cast(T, __nvvm_ldg_us(reinterpret_cast<const unsigned short*>(p)));
  else if constexpr (sizeof(T) == 4)
    return __builtin_bit_cast(T, __nvvm_ldg_ui(reinterpret_cast<const unsigned*>(p)));
  else if constexpr (sizeof(T) == 8)
    return __builtin_bit_cast(T, __nvvm_ldg_ui2(reinterpret_cast<const Words2*>(p)));
  else
    return __builtin_bit_cast(T, __nvvm_ldg_ui4(reinterpret_cast<const Words4*>(p)));
}

#endif
