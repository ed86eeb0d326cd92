// The AVX2 + FMA + F16C table: floats of any type here, weights in blocks in avx2_q8.cpp, rows of activations in
// avx2_rows.cpp.
#include <type_traits>

#include "kernels/peak.h"
#include "kernels/x86/avx2_common.h"

namespace lora_edge::avx2 {

void install_q8(Table&);
void install_gradient(Table&);
void install_rows(Table&);

namespace {

// A matrix as matmul and attention see it: rows `stride` bytes apart.
struct Rows {
  const uint8_t* w;
  size_t stride;
};

// Rows are too short for the hardware to see as many streams in them: with each step of the rows at hand, its share of
// those that follow is prefetched, in the order of memory.
template <size_t kShare>
void prefetch_share(Rows rows, int count, int step) {
  const uint8_t* next = rows.w + static_cast<size_t>(count) * rows.stride + static_cast<size_t>(step) * kShare;
  for (size_t line = 0; line < kShare; line += 64) _mm_prefetch(next + line, _MM_HINT_T0);
}

// y[t · ldy + r] = row r · x[t], kRows x kTokens dot products at once: each has two registers of sums (dot16's 16
// lanes). 2 x 3 fill 16 registers: 12 sums, 3 of x and 1 of w. 4 x 1 still hide the latency of an FMA.
template <DType type, int kRows, int kTokens>
void dot_tile(Rows rows, const float* x, size_t ldx, int k, float* y, size_t ldy) {
  __m256 sum[2][kRows][kTokens] = {};
  const auto step = [&](const uint8_t* w, size_t w_stride, const float* in, size_t in_stride) {
    for (int h = 0; h < 2; ++h) {
      __m256 xt[kTokens];
      for (int t = 0; t < kTokens; ++t) xt[t] = _mm256_loadu_ps(in + static_cast<size_t>(t) * in_stride + h * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const uint8_t* p = w + static_cast<size_t>(r) * w_stride + static_cast<size_t>(h) * kLanes * kSize<type>;
        const __m256 wr = load8<type>(p);
        for (int t = 0; t < kTokens; ++t) sum[h][r][t] = _mm256_fmadd_ps(wr, xt[t], sum[h][r][t]);
      }
    }
  };
  int i = 0;
  for (; i + 2 * kLanes <= k; i += 2 * kLanes) {
    if constexpr (kTokens == 1) prefetch_share<kRows * 2 * kLanes * kSize<type>>(rows, kRows, i / (2 * kLanes));
    step(rows.w + static_cast<size_t>(i) * kSize<type>, rows.stride, x + i, ldx);
  }
  if (i < k) {  // a sum of -0 must stay: missing elements are w = 0, x = -0
    alignas(32) uint8_t w_tail[kRows][2 * kLanes * kSize<type>] = {};
    alignas(32) float x_tail[kTokens][2 * kLanes];
    const size_t left = static_cast<size_t>(k - i);
    for (int r = 0; r < kRows; ++r)
      std::memcpy(w_tail[r], rows.w + static_cast<size_t>(r) * rows.stride + static_cast<size_t>(i) * kSize<type>,
                  left * kSize<type>);
    for (int t = 0; t < kTokens; ++t) {
      for (int l = 0; l < 2; ++l) _mm256_store_ps(x_tail[t] + l * kLanes, _mm256_set1_ps(-0.0f));
      std::memcpy(x_tail[t], x + static_cast<size_t>(t) * ldx + i, left * sizeof(float));
    }
    step(w_tail[0], sizeof(w_tail[0]), x_tail[0], 2 * kLanes);
  }
#pragma GCC unroll 4  // else GCC keeps the sums in memory
  for (int t = 0; t < kTokens; ++t)
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
      y[static_cast<size_t>(t) * ldy + static_cast<size_t>(r)] = reduce16(sum[0][r][t], sum[1][r][t]);
}

// y[i · ldy + j] = row j · x[i]. 4 rows stay in L1 while all tokens pass.
template <DType type>
void dots(Rows rows, int n, const float* x, size_t ldx, int m, int k, float* y, size_t ldy) {
  const auto at = [&](int j) { return Rows{rows.w + static_cast<size_t>(j) * rows.stride, rows.stride}; };
  for (int j = 0; j < n;) {
    const bool four = j + 4 <= n;
    int i = 0;
    for (; i + 3 <= m; i += 3) {
      const float* xi = x + static_cast<size_t>(i) * ldx;
      float* yi = y + static_cast<size_t>(i) * ldy + j;
      if (four) {
        dot_tile<type, 2, 3>(at(j), xi, ldx, k, yi, ldy);
        dot_tile<type, 2, 3>(at(j + 2), xi, ldx, k, yi + 2, ldy);
      } else {
        dot_tile<type, 1, 3>(at(j), xi, ldx, k, yi, ldy);
      }
    }
    for (; i < m; ++i) {
      const float* xi = x + static_cast<size_t>(i) * ldx;
      float* yi = y + static_cast<size_t>(i) * ldy + j;
      if (four)
        dot_tile<type, 4, 1>(at(j), xi, ldx, k, yi, ldy);
      else
        dot_tile<type, 1, 1>(at(j), xi, ldx, k, yi, ldy);
    }
    j += four ? 4 : 1;
  }
}

template <DType type>
void matmul(const MatmulArgs& a) {
  const Rows rows{static_cast<const uint8_t*>(a.w) + static_cast<size_t>(a.n0) * a.w_stride, a.w_stride};
  dots<type>(rows, a.n1 - a.n0, a.x, a.ldx, a.m, a.k, a.y + a.n0, a.ldy);
}

// y[i · ldy + j] += Σ_t u[i · ldu + t] · b[t · n + j], t in order, over 8 · kVectors columns from b and y, or over the
// first `count` < 8 of one vector if kPart. With each row of b its share of `next`, if there is one, is prefetched: a
// burst of prefetches would leave memory idle afterwards.
template <DType type, int kTokens, int kVectors, bool kPart>
void update_tile(const uint8_t* b, size_t n, int r, const float* u, size_t ldu, float* y, size_t ldy, int count,
                 const uint8_t* next = nullptr) {
  const __m256i mask = lane_mask(count);
  __m256 acc[kTokens][kVectors];
#pragma GCC unroll 4  // else GCC takes the sums through memory
  for (int i = 0; i < kTokens; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const float* p = y + static_cast<size_t>(i) * ldy + v * kLanes;
      acc[i][v] = kPart ? _mm256_maskload_ps(p, mask) : _mm256_loadu_ps(p);
    }
  for (int t = 0; t < r; ++t) {
    const uint8_t* row = b + static_cast<size_t>(t) * n * kSize<type>;
    constexpr size_t kShare = kVectors * kLanes * kSize<type>;
    if (next)
      for (size_t line = 0; line < kShare; line += 64)
        _mm_prefetch(next + static_cast<size_t>(t) * kShare + line, _MM_HINT_T1);
    __m256 ut[kTokens];
    for (int i = 0; i < kTokens; ++i) ut[i] = _mm256_set1_ps(u[static_cast<size_t>(i) * ldu + static_cast<size_t>(t)]);
    for (int v = 0; v < kVectors; ++v) {
      const __m256 w =
          kPart ? load_part<type>(row, count) : load8<type>(row + static_cast<size_t>(v) * kLanes * kSize<type>);
      for (int i = 0; i < kTokens; ++i) acc[i][v] = _mm256_fmadd_ps(ut[i], w, acc[i][v]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kTokens; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      float* p = y + static_cast<size_t>(i) * ldy + v * kLanes;
      if (kPart)
        _mm256_maskstore_ps(p, mask, acc[i][v]);
      else
        _mm256_storeu_ps(p, acc[i][v]);
    }
}

// kTokens rows of y over n columns. 1 x 8 sums hide the latency of an FMA; 3 x 4, with 3 of u and 1 of b, fill 16
// registers.
template <DType type, int kTokens>
void update_rows(const uint8_t* b, size_t ldb, int n, int r, const float* u, size_t ldu, float* y, size_t ldy,
                 const uint8_t* next) {
  constexpr int kVectors = kTokens == 1 ? 8 : 4;
  int j = 0;
  const auto at = [&] { return b + static_cast<size_t>(j) * kSize<type>; };
  for (; j + kVectors * kLanes <= n; j += kVectors * kLanes)
    update_tile<type, kTokens, kVectors, false>(at(), ldb, r, u, ldu, y + j, ldy, 0,
                                                next ? next + static_cast<size_t>(j * r) * kSize<type> : nullptr);
  for (; j + kLanes <= n; j += kLanes) update_tile<type, kTokens, 1, false>(at(), ldb, r, u, ldu, y + j, ldy, 0);
  if (j < n) update_tile<type, kTokens, 1, true>(at(), ldb, r, u, ldu, y + j, ldy, n - j);
}

template <DType type>
void updates(const uint8_t* b, size_t ldb, int n, int r, const float* u, size_t ldu, int m, float* y, size_t ldy,
             const uint8_t* next) {
  const auto rows = [&](auto tokens, int i) {
    update_rows<type, tokens.value>(b, ldb, n, r, u + static_cast<size_t>(i) * ldu, ldu,
                                    y + static_cast<size_t>(i) * ldy, ldy, i == 0 ? next : nullptr);
  };
  int i = 0;
  for (; i + 3 <= m; i += 3) rows(std::integral_constant<int, 3>{}, i);
  for (; i < m; ++i) rows(std::integral_constant<int, 1>{}, i);
}

template <DType type>
void lowrank(const LowRankArgs& a) {
  const uint8_t* b = static_cast<const uint8_t*>(a.bt) + static_cast<size_t>(a.n0) * kSize<type>;
  updates<type>(b, static_cast<size_t>(a.n), a.n1 - a.n0, a.r, a.u, a.ldu, a.m, a.y + a.n0, a.ldy,
                static_cast<const uint8_t*>(a.next));
}

// In squares of 8 x 8.
template <DType type>
void transpose(const void* in, size_t in_stride, int n, int r, float* out) {
  const uint8_t* rows = static_cast<const uint8_t*>(in);
  const size_t ld = static_cast<size_t>(n);
  for (int j = 0; j < n; j += kLanes)
    for (int t = 0; t < r; t += kLanes) {
      const int width = n - j < kLanes ? n - j : kLanes, depth = r - t < kLanes ? r - t : kLanes;
      __m256i v[kLanes] = {};
      for (int i = 0; i < width; ++i) {
        const uint8_t* p = rows + static_cast<size_t>(j + i) * in_stride + static_cast<size_t>(t) * kSize<type>;
        v[i] = _mm256_castps_si256(depth == kLanes ? load8<type>(p) : load_part<type>(p, depth));
      }
      transpose_groups(v);
      for (int i = 0; i < depth; ++i)
        store_lanes(out + static_cast<size_t>(t + i) * ld + j, _mm256_castsi256_ps(v[i]), width);
    }
}

template <DType type>
void dequantize(const void* w, float* out, int k) {
  const uint8_t* p = static_cast<const uint8_t*>(w);
  int i = 0;
  for (; i + kLanes <= k; i += kLanes) _mm256_storeu_ps(out + i, load8<type>(p + static_cast<size_t>(i) * kSize<type>));
  if (i < k)
    _mm256_maskstore_ps(out + i, lane_mask(k - i), load_part<type>(p + static_cast<size_t>(i) * kSize<type>, k - i));
}

void f32_to_f16(const float* x, uint16_t* out, int n) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; ++i) out[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
}

template <DType type>
void install_type(Table& t) {
  t.matmul[static_cast<int>(type)] = matmul<type>;
  t.dequantize[static_cast<int>(type)] = dequantize<type>;
  t.lowrank[static_cast<int>(type)] = lowrank<type>;
  t.transpose[static_cast<int>(type)] = transpose<type>;
}

}  // namespace

void install(Table& t) {
  t.name = "avx2";
  install_type<DType::f32>(t);
  install_type<DType::f16>(t);
  install_type<DType::bf16>(t);
  install_q8(t);
  install_gradient(t);
  install_rows(t);
  t.f32_to_f16 = f32_to_f16;
  t.int8_peak = int8_peak;
}

}  // namespace lora_edge::avx2
