// Numbers of weights, by their kind.
#pragma once

namespace lora_edge::cuda {

DEVICE float load_float(const void* p, int kind, long long i) {
  if (kind == kF32) return load_cached(static_cast<const float*>(p) + i);
  const unsigned short h = load_cached(static_cast<const unsigned short*>(p) + i);
  return kind == kF16 ? half_to_float(h) : bits_to_float(static_cast<unsigned>(h) << 16);
}

struct alignas(16) Words {
  int w[4];
};

DEVICE Words load_words(const int* p) { return load_cached(reinterpret_cast<const Words*>(p)); }

// Half `half` of a block as 16 signed bytes.
DEVICE Words load_q8(const Matrix& w, long long block, int half) {
  return load_words(static_cast<const int*>(w.q) + block * 8 + half * 4);
}

DEVICE Words load_q4(const Matrix& w, long long block, int half) {
  Words words = load_words(static_cast<const int*>(w.q) + block * 4);
  for (int i = 0; i < 4; ++i) {
    const unsigned low = (static_cast<unsigned>(words.w[i]) >> (4 * half)) & 0x0f0f0f0fu;
    words.w[i] = static_cast<int>((low + 0x78787878u) ^ 0x80808080u);  // each byte less 8, with no carries
  }
  return words;
}

template <int kind>
DEVICE Words load_block(const Matrix& w, long long block, int half) {
  if constexpr (kind == kQ8) return load_q8(w, block, half);
  return load_q4(w, block, half);
}

DEVICE float block_scale(const Matrix& w, long long block) {
  return half_to_float(load_cached(static_cast<const unsigned short*>(w.d) + block));
}

// Element i of row `row` of any weight.
DEVICE float load_weight(const Matrix& w, int row, int i) {
  if (w.kind < kQ8) return load_float(w.q, w.kind, static_cast<long long>(row) * w.k + i);
  const long long block = (static_cast<long long>(row) * w.k + i) / 32;
  const int e = i % 32;
  const unsigned char* bytes = static_cast<const unsigned char*>(w.q);
  int q;
  if (w.kind == kQ8) {
    q = static_cast<signed char>(load_cached(bytes + block * 32 + e));
  } else {
    q = (load_cached(bytes + block * 16 + e % 16) >> (4 * (e / 16)) & 15) - 8;
  }
  return block_scale(w, block) * static_cast<float>(q);
}

}  // namespace lora_edge::cuda
