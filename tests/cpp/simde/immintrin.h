// Stands before the compiler's own header where the tables with VNNI are checked on a machine without: SIMDe says in
// plain C++ what the intrinsics of avx_vnni.cpp and avx512_vnni.cpp do, and five that it lacks are spelled out. Needs
// Debian's libsimde-dev.
#pragma once
#include_next <immintrin.h>
#include <simde/x86/avx512/add.h>
#include <simde/x86/avx512/cast.h>
#include <simde/x86/avx512/dpbusd.h>
#include <simde/x86/avx512/dpwssd.h>
#include <simde/x86/avx512/fmadd.h>
#include <simde/x86/avx512/loadu.h>
#include <simde/x86/avx512/madd.h>
#include <simde/x86/avx512/mul.h>
#include <simde/x86/avx512/mullo.h>
#include <simde/x86/avx512/set1.h>
#include <simde/x86/avx512/setzero.h>
#include <simde/x86/avx512/shuffle.h>
#include <simde/x86/avx512/slli.h>
#include <simde/x86/avx512/storeu.h>
#include <simde/x86/avx512/unpackhi.h>
#include <simde/x86/avx512/unpacklo.h>
#include <simde/x86/avx512/xor.h>

#include <cstring>

namespace emulated {

inline simde__m512 cvtepi32_ps(simde__m512i v) {
  int in[16];
  float out[16];
  std::memcpy(in, &v, sizeof(in));
  for (int i = 0; i < 16; ++i) out[i] = static_cast<float>(in[i]);
  return simde_mm512_loadu_ps(out);
}

inline simde__m512i inserti64x4(simde__m512i v, __m256i by, int at) {
  std::memcpy(reinterpret_cast<char*>(&v) + 32 * at, &by, sizeof(by));
  return v;
}

inline simde__m512i srai_epi32(simde__m512i v, int by) {
  int lane[16];
  std::memcpy(lane, &v, sizeof(lane));
  for (int& l : lane) l >>= by;
  return simde_mm512_loadu_si512(lane);
}

inline simde__m512 maskz_loadu_ps(simde__mmask16 lanes, const float* p) {
  float out[16] = {};
  for (int i = 0; i < 16; ++i)
    if (lanes >> i & 1) out[i] = p[i];
  return simde_mm512_loadu_ps(out);
}

inline void mask_storeu_ps(float* p, simde__mmask16 lanes, simde__m512 v) {
  float in[16];
  std::memcpy(in, &v, sizeof(in));
  for (int i = 0; i < 16; ++i)
    if (lanes >> i & 1) p[i] = in[i];
}

}  // namespace emulated

#define __m512 simde__m512
#define __m512i simde__m512i
#define __mmask16 simde__mmask16
#define _mm256_dpbusd_avx_epi32 simde_mm256_dpbusd_epi32
#define _mm256_dpwssd_avx_epi32 simde_mm256_dpwssd_epi32
#define _mm256_dpbusd_epi32 simde_mm256_dpbusd_epi32
#define _mm512_add_epi32 simde_mm512_add_epi32
#define _mm512_castsi256_si512 simde_mm512_castsi256_si512
#define _mm512_castsi512_ps simde_mm512_castsi512_ps
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#define _mm512_dpbusd_epi32 simde_mm512_dpbusd_epi32
#define _mm512_dpwssd_epi32 simde_mm512_dpwssd_epi32
#define _mm512_fmadd_ps simde_mm512_fmadd_ps
#define _mm512_inserti64x4 emulated::inserti64x4
#define _mm512_loadu_ps simde_mm512_loadu_ps
#define _mm512_loadu_si512 simde_mm512_loadu_si512
#define _mm512_madd_epi16 simde_mm512_madd_epi16
#define _mm512_mask_storeu_ps emulated::mask_storeu_ps
#define _mm512_maskz_loadu_ps emulated::maskz_loadu_ps
#define _mm512_mul_ps simde_mm512_mul_ps
#define _mm512_mullo_epi16 simde_mm512_mullo_epi16
#define _mm512_mullo_epi32 simde_mm512_mullo_epi32
#define _mm512_set1_epi16 simde_mm512_set1_epi16
#define _mm512_set1_epi8 simde_mm512_set1_epi8
#define _mm512_set1_epi32 simde_mm512_set1_epi32
#define _mm512_set1_ps simde_mm512_set1_ps
#define _mm512_setzero_ps simde_mm512_setzero_ps
#define _mm512_setzero_si512 simde_mm512_setzero_si512
#define _mm512_shuffle_i32x4 simde_mm512_shuffle_i32x4
#define _mm512_slli_epi32 simde_mm512_slli_epi32
#define _mm512_storeu_ps simde_mm512_storeu_ps
#define _mm512_srai_epi32 emulated::srai_epi32
#define _mm512_unpackhi_epi32 simde_mm512_unpackhi_epi32
#define _mm512_unpackhi_epi64 simde_mm512_unpackhi_epi64
#define _mm512_unpacklo_epi32 simde_mm512_unpacklo_epi32
#define _mm512_unpacklo_epi64 simde_mm512_unpacklo_epi64
#define _mm512_xor_si512 simde_mm512_xor_si512
