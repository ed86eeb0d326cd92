// Vector helpers of the AVX2 files. Each file that includes this has its own copy, in an anonymous namespace: a shared
// copy could be linked into code that runs on older CPUs.
#pragma once

#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "built with -mavx2 -mfma -mf16c only"
#endif

#include <immintrin.h>

#include "kernels/kernels.h"

namespace lora_edge::avx2 {
namespace {

constexpr int kLanes = 8;  // floats of a register

template <DType type>
constexpr size_t kSize = type == DType::f32 ? 4 : 2;  // bytes of an element

// Elements 0-7 at p, as floats.
template <DType type>
__m256 load8(const void* p) {
  if constexpr (type == DType::f32) {
    return _mm256_loadu_ps(static_cast<const float*>(p));
  } else {
    const __m128i h = _mm_loadu_si128(static_cast<const __m128i*>(p));
    if constexpr (type == DType::f16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
  }
}

// The first `count` < 8 elements at p, then zeros; reads no further.
template <DType type>
__m256 load_part(const void* p, int count) {
  alignas(32) uint8_t buffer[kLanes * 4] = {};
  std::memcpy(buffer, p, static_cast<size_t>(count) * kSize<type>);
  return load8<type>(buffer);
}

// Transposes 8 x 8 groups of 4 bytes: v[r] holds a row's groups; v[e] comes to hold group e of each row.
inline void transpose_groups(__m256i* v) {
  __m256i pair[8], quad[8];
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);      // groups 0, 1 | 4, 5
    pair[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);  // groups 2, 3 | 6, 7
  }
  for (int i = 0; i < 8; i += 4)
    for (int s = 0; s < 2; ++s) {
      quad[i + 2 * s] = _mm256_unpacklo_epi64(pair[i + s], pair[i + 2 + s]);      // group 2s | 2s + 4
      quad[i + 2 * s + 1] = _mm256_unpackhi_epi64(pair[i + s], pair[i + 2 + s]);  // group 2s + 1 | 2s + 5
    }
  for (int e = 0; e < 4; ++e) {
    v[e] = _mm256_permute2x128_si256(quad[e], quad[e + 4], 0x20);
    v[e + 4] = _mm256_permute2x128_si256(quad[e], quad[e + 4], 0x31);
  }
}

// All ones in the first `count` lanes, for maskload and maskstore of floats.
inline __m256i lane_mask(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// The first `count` floats of a vector, or all 8 if there are more. Masked stores are slow on AMD: only where needed.
inline __m256 load_lanes(const float* p, int count) {
  return count >= kLanes ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, lane_mask(count));
}
inline void store_lanes(float* p, __m256 v, int count) {
  if (count >= kLanes)
    _mm256_storeu_ps(p, v);
  else
    _mm256_maskstore_ps(p, lane_mask(count), v);
}

// What each8's function is given to touch floats with: all lanes, or the first few.
struct AllLanes {
  __m256 load(const float* p) const { return _mm256_loadu_ps(p); }
  void store(float* p, __m256 v) const { _mm256_storeu_ps(p, v); }
  __m256 select(__m256 v, __m256) const { return v; }  // v, and `other` in the lanes that are not touched
};
struct FirstLanes {
  __m256i mask;
  __m256 load(const float* p) const { return _mm256_maskload_ps(p, mask); }  // zeros elsewhere
  void store(float* p, __m256 v) const { _mm256_maskstore_ps(p, mask, v); }
  __m256 select(__m256 v, __m256 other) const { return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(mask)); }
};

// Calls f(i, lanes) for i = 0, 8, … below n.
template <class F>
inline void each8(int n, F f) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, AllLanes{});
  if (i < n) f(i, FirstLanes{lane_mask(n - i)});
}

// dot16's final sum of lanes 0-7 and lanes 8-15.
inline float reduce16(__m256 low, __m256 high) {
  const __m256 s8 = _mm256_add_ps(low, high);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

inline float max8(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

// exp by the polynomial of ref.cpp, for `count` vectors step by step: one after another they would wait in the
// scheduler for their own latency. The operand order of max and min makes NaN -87, as there.
template <int count>
inline void exp_each(__m256* x) {
  __m256 n[count], p[count];
  const auto each = [](auto step) {
    for (int i = 0; i < count; ++i) step(i);
  };
  each([&](int i) {
    x[i] = _mm256_min_ps(_mm256_max_ps(x[i], _mm256_set1_ps(-87.0f)), _mm256_set1_ps(88.0f));
    n[i] = _mm256_round_ps(_mm256_mul_ps(x[i], _mm256_set1_ps(1.44269504088896341f)),
                           _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  });
  each([&](int i) { x[i] = _mm256_fmadd_ps(n[i], _mm256_set1_ps(-0.693359375f), x[i]); });
  each([&](int i) { x[i] = _mm256_fmadd_ps(n[i], _mm256_set1_ps(2.12194440e-4f), x[i]); });
  each(
      [&](int i) { p[i] = _mm256_fmadd_ps(_mm256_set1_ps(1.9875691500e-4f), x[i], _mm256_set1_ps(1.3981999507e-3f)); });
  constexpr float kCoefficients[] = {8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
  for (const float c : kCoefficients) each([&](int i) { p[i] = _mm256_fmadd_ps(p[i], x[i], _mm256_set1_ps(c)); });
  each([&](int i) {
    p[i] = _mm256_add_ps(_mm256_fmadd_ps(p[i], _mm256_mul_ps(x[i], x[i]), x[i]), _mm256_set1_ps(1.0f));
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n[i]), _mm256_set1_epi32(127));
    x[i] = _mm256_mul_ps(p[i], _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  });
}

inline __m256 exp8(__m256 x) {
  exp_each<1>(&x);
  return x;
}

}  // namespace
}  // namespace lora_edge::avx2
