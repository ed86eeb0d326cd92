// Functions of floats as the CPU's kernels have them (kernels/ref/ref.cpp), in the same fused steps.
#pragma once

namespace lora_edge::cuda {

constexpr float kInfinity = __builtin_inff();

// Cephes' expf; relative error below 2e-7.
DEVICE float exp_(float x) {
  x = x > -87.0f ? x : -87.0f;
  x = x < 88.0f ? x : 88.0f;
  const float n = round_(x * 1.44269504088896341f);
  float r = fma_(n, -0.693359375f, x);
  r = fma_(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fma_(p, r, 1.3981999507e-3f);
  p = fma_(p, r, 8.3334519073e-3f);
  p = fma_(p, r, 4.1665795894e-2f);
  p = fma_(p, r, 1.6666665459e-1f);
  p = fma_(p, r, 5.0000001201e-1f);
  p = fma_(p, r * r, r) + 1.0f;
  return p * bits_to_float(static_cast<unsigned>(static_cast<int>(n) + 127) << 23);
}

DEVICE float silu(float x) { return x / (1.0f + exp_(-x)); }

DEVICE float gelu_tanh(float x) {
  return x / (1.0f + exp_(-(x * fma_(x * x, 0.071354816272283f, 1.5957691216057308f))));
}

DEVICE float gelu_erf(float x) {
  const float t = 1.0f / fma_(x < 0.0f ? -x : x, 0.231641887f, 1.0f);
  float p = 0.5307027145f;
  p = fma_(p, t, -0.7265760135f);
  p = fma_(p, t, 0.7107068705f);
  p = fma_(p, t, -0.142248368f);
  p = fma_(p, t, 0.127414796f);
  const float tail = p * t * exp_(x * x * -0.5f);
  return x * (x < 0.0f ? tail : 1.0f - tail);
}

// cap · tanh(scale · x / cap); NaN stays.
DEVICE float soft_cap(float x, float scale, float cap) {
  return x == x ? cap * (2.0f / (1.0f + exp_(x * (-2.0f * scale / cap))) - 1.0f) : x;
}

}  // namespace lora_edge::cuda
