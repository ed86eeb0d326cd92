// Numbers of weights, by their kind.
#pragma once

namespace lora_edge::cuda {

DEVICE float load_float(const void* p, int kind, long long i) {
  if (kind == kF32) return load_cached(static_cast<const float*>(p) + i);
  const unsigned short h = load_cached(static_cast<const unsigned short*>(p) + i);
  return kind == kF16 ? half_to_float(h) : bits_to_float(static_cast<unsigned>(h) << 16);
}

template <int k>
struct KindIs {
  static constexpr int kind = k;
};

// f(KindIs<kind>) for a weight in blocks.
template <class F>
DEVICE auto with_kind(int kind, const F& f) {
  switch (kind) {
    case kQ8: return f(KindIs<kQ8>());
    case kQ4: return f(KindIs<kQ4>());
    case kQ8Min: return f(KindIs<kQ8Min>());
    case kQ4Min: return f(KindIs<kQ4Min>());
    case kQ8Sub: return f(KindIs<kQ8Sub>());
    case kQ4Sub: return f(KindIs<kQ4Sub>());
    default: return f(KindIs<kQ8Halves>());
  }
}

struct alignas(16) Words {
  int w[4];
};

DEVICE Words load_words(const int* p) { return load_cached(reinterpret_cast<const Words*>(p)); }

struct Eight {
  float v[8];
};

// Floats i … i + 7; i is a multiple of 8, and p aligned to 16 bytes. Halves are read twice, so that no branch lies
// between loads that could be under way together.
DEVICE Eight load_eight(const void* p, int kind, long long i) {
  const bool whole = kind == kF32;
  const int* at = static_cast<const int*>(p) + (whole ? i : i / 2);
  const Words low = load_words(at), high = load_words(at + (whole ? 4 : 0));
  Eight out;
  for (int e = 0; e < 8; ++e) {
    const unsigned two = static_cast<unsigned>(low.w[e / 2]), half = e % 2 ? two >> 16 : two & 0xffffu;
    const float small = kind == kF16 ? half_to_float(static_cast<unsigned short>(half)) : bits_to_float(half << 16);
    out.v[e] = whole ? bits_to_float(static_cast<unsigned>((e < 4 ? low : high).w[e % 4])) : small;
  }
  return out;
}

// Of 16 signed bytes.
DEVICE int sum_of(const Words& x) {
  int sum = 0;
  for (int e = 0; e < 4; ++e) sum = dot4(0x01010101, x.w[e], sum);
  return sum;
}

constexpr bool has_bytes(int kind) { return kind == kQ8 || kind == kQ8Min || kind == kQ8Sub || kind == kQ8Halves; }

// Half `half` of a block as 16 signed bytes.
template <int kind>
DEVICE Words load_block(const Matrix& w, long long block, int half) {
  const int* q = static_cast<const int*>(w.q);
  if constexpr (has_bytes(kind)) return load_words(q + block * 8 + half * 4);
  Words words = load_words(q + block * 4);
  for (int i = 0; i < 4; ++i) {
    unsigned four = (static_cast<unsigned>(words.w[i]) >> (4 * half)) & 0x0f0f0f0fu;
    if constexpr (kind == kQ4) four = (four + 0x78787878u) ^ 0x80808080u;  // each byte less 8, with no carries
    words.w[i] = static_cast<int>(four);
  }
  return words;
}

// Of a half of a block: value = d · scale · q + min.
struct Scales {
  float d;
  int scale;
  float min;
};

template <int kind>
DEVICE Scales load_scales(const Matrix& w, long long block, int half) {
  if constexpr (is_plain(kind))
    return {half_to_float(load_cached(static_cast<const unsigned short*>(w.d) + block)), 1, 0.0f};
  constexpr bool super = kind >= kQ8Sub;
  const unsigned both = load_cached(static_cast<const unsigned*>(w.d) + (super ? block / 8 : block));
  const float d = half_to_float(static_cast<unsigned short>(both));
  const float min = half_to_float(static_cast<unsigned short>(both >> 16));
  if constexpr (!super) return {d, 1, min};
  if constexpr (kind == kQ8Halves) {
    const unsigned four = load_cached(static_cast<const unsigned*>(w.s) + block) >> (8 * half);
    return {d, static_cast<signed char>(four & 255u), min * static_cast<float>(four >> 16 & 255u)};
  }
  const unsigned two = load_cached(static_cast<const unsigned short*>(w.s) + block);
  return {d * static_cast<float>(two & 255u), 1, min * static_cast<float>(two >> 8)};
}

template <int kind>
DEVICE float element(const Matrix& w, long long block, int e) {
  const unsigned char* bytes = static_cast<const unsigned char*>(w.q);
  int q;
  if constexpr (has_bytes(kind)) {
    q = static_cast<signed char>(load_cached(bytes + block * 32 + e));
  } else {
    q = (load_cached(bytes + block * 16 + e % 16) >> (4 * (e / 16)) & 15) - (kind == kQ4 ? 8 : 0);
  }
  const Scales scales = load_scales<kind>(w, block, e / 16);
  const float value = scales.d * static_cast<float>(scales.scale) * static_cast<float>(q);
  return is_plain(kind) ? value : value + scales.min;
}

// Element i of row `row` of any weight.
DEVICE float load_weight(const Matrix& w, int row, int i) {
  if (w.kind < kQ8) return load_float(w.q, w.kind, static_cast<long long>(row) * w.k + i);
  const long long block = (static_cast<long long>(row) * w.k + i) / 32;
  return with_kind(w.kind, [&](auto k) { return element<k.kind>(w, block, i % 32); });
}

}  // namespace lora_edge::cuda
