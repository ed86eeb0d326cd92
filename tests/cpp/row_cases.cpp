// Kernels of rows of activations: softmax, quantisation, norms, activations, rotation.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernel_cases.h"

namespace lora_edge {
namespace {

// States as attention keeps them: values [d], maximum, sum; sometimes as they begin.
Guarded<float> softmax_state(Random& r, size_t d) {
  Guarded<float> state = floats(r, d + 2);
  state[d + 1] = std::fabs(state[d + 1]);
  if (r.chance(3)) {
    for (float& v : state) v = 0.0f;
    state[d] = -INFINITY;
  }
  return state;
}

std::string softmax_page_case(Random& r, const Table& ref, const Table& t) {
  const int n = r.range(1, kPagePositions), m = r.size(40), d = r.size(256);
  const size_t ld = static_cast<size_t>(d + 2 + r.range(0, 9)), rows = static_cast<size_t>(m);
  const float scale = r.chance(4) ? r.uniform() : 0.125f;
  const bool at_end = !r.chance(4);
  Outputs<float> p(r, (rows - 1) * kPagePositions + static_cast<size_t>(n), at_end);
  Outputs<float> s(r, (rows - 1) * ld + static_cast<size_t>(d) + 2, at_end);
  const Guarded<float> scores = floats(r, p.want.size());
  for (float* to : {p.want.data(), p.got.data()}) std::copy_n(scores.data(), p.want.size(), to);
  for (size_t i = 0; i < rows; ++i) {
    const Guarded<float> state = softmax_state(r, static_cast<size_t>(d));
    for (float* to : {s.want.data(), s.got.data()}) std::copy_n(state.data(), d + 2, to + i * ld);
  }
  ref.softmax_page(p.want.data(), n, m, scale, s.want.data(), ld, d);
  t.softmax_page(p.got.data(), n, m, scale, s.got.data(), ld, d);
  return p.difference("p") + s.difference("state");
}

std::string softmax_merge_case(Random& r, const Table& ref, const Table& t) {
  const size_t d = static_cast<size_t>(r.size(256));
  const Guarded<float> state = softmax_state(r, d);
  Guarded<float> later = softmax_state(r, d);
  later.freeze();
  Outputs<float> s(r, d + 2, !r.chance(4));
  for (float* to : {s.want.data(), s.got.data()}) std::copy_n(state.data(), d + 2, to);
  ref.softmax_merge(s.want.data(), later.data(), static_cast<int>(d));
  t.softmax_merge(s.got.data(), later.data(), static_cast<int>(d));
  return s.difference("state");
}

std::string dequantize_keys_case(Random& r, const Table& ref, const Table& t) {
  const size_t d = 32 * static_cast<size_t>(r.range(1, 8)), n = d * kPagePositions;
  Guarded<int8_t> q(n, true);
  Guarded<uint16_t> scales(n / kBlock, true);
  fill_int8(r, q.data(), n, -127);
  for (uint16_t& s : scales) s = f32_to_f16(r.uniform());
  Outputs<float> out(r, n, true);
  ref.dequantize_keys(q.data(), scales.data(), static_cast<int>(d), out.want.data());
  t.dequantize_keys(q.data(), scales.data(), static_cast<int>(d), out.got.data());
  return out.difference("out");
}

std::string quantize_case(Random& r, const Table& ref, const Table& t) {
  const size_t k = 32 * static_cast<size_t>(r.size(30));
  Guarded<float> x = floats(r, k);
  if (r.chance(2))
    for (size_t b = 0; b < k; b += kBlock) {  // each block of its own kind
      const Fill fill = random_fill(r);
      for (size_t e = 0; e < kBlock; ++e) x[b + e] = random_float(r, fill);
    }
  if (r.chance(4))
    for (size_t b = 0; b < k; b += kBlock) {  // halves of the scale: ties in rounding
      for (size_t e = 0; e < kBlock; ++e) x[b + e] = static_cast<float>(r.range(-253, 253)) * 0.5f;
      x[b] = 127.0f;
    }
  x.freeze();
  Outputs<int8_t> q(r, k, !r.chance(4));
  Outputs<float> d(r, k / kBlock, !r.chance(4));
  Outputs<int16_t> s(r, k / 16, !r.chance(4));
  ref.quantize_q8(x.data(), q.want.data(), d.want.data(), s.want.data(), static_cast<int>(k));
  t.quantize_q8(x.data(), q.got.data(), d.got.data(), s.got.data(), static_cast<int>(k));
  const std::string diff = d.difference("d") + s.difference("s");
  return diff.empty() ? q.difference("q") : diff;
}

std::string quantize_q16_case(Random& r, const Table& ref, const Table& t) {
  const int n = r.range(1, kGradientSpan);
  Guarded<float> x = floats(r, static_cast<size_t>(n));
  const float scale = std::ldexp(1.0f, r.chance(3) ? r.range(-140, 20) : 0);
  for (float& v : x) v *= scale;
  if (r.chance(4)) {  // halves of the scale: ties in rounding
    for (float& v : x) v = static_cast<float>(r.range(-65023, 65023)) * 0.5f;
    x[0] = kMostQ16;
  }
  x.freeze();
  Outputs<int16_t> q(r, kGradientSpan, true);
  const float want = ref.quantize_q16(x.data(), n, q.want.data()), got = t.quantize_q16(x.data(), n, q.got.data());
  if (f32_to_bits(want) != f32_to_bits(got) && !(std::isnan(want) && std::isnan(got)))
    return concat("d is ", got, ", should be ", want, " (n ", n, ")");
  return q.difference("q");
}

std::string to_f16_case(Random& r, const Table& ref, const Table& t) {
  const size_t n = static_cast<size_t>(r.size(500));
  Guarded<float> x = floats(r, n);
  if (r.chance(3))
    for (float& v : x) v = std::ldexp(r.uniform(), r.range(-28, 18));  // around f16's own range
  if (r.chance(3))
    for (float& v : x) v = bits_to_f32(f32_to_bits(v) & 0xfffff000u);  // ties
  x.freeze();
  Outputs<uint16_t> out(r, n, !r.chance(4));
  ref.f32_to_f16(x.data(), out.want.data(), static_cast<int>(n));
  t.f32_to_f16(x.data(), out.got.data(), static_cast<int>(n));
  return out.difference("out");
}

std::string add_case(Random& r, const Table& ref, const Table& t) {
  const size_t n = static_cast<size_t>(r.size(500));
  Guarded<float> x = floats(r, n);
  x.freeze();
  Outputs<float> y(r, n, !r.chance(4));
  ref.add(y.want.data(), x.data(), static_cast<int>(n));
  t.add(y.got.data(), x.data(), static_cast<int>(n));
  return y.difference("y");
}

std::string rms_norm_case(Random& r, const Table& ref, const Table& t) {
  const size_t n = static_cast<size_t>(r.size(1200));
  Guarded<float> x = floats(r, n), w = floats(r, n);
  w.freeze();
  const float eps = r.chance(3) ? 0.0f : 1e-5f;
  Outputs<float> out(r, n, !r.chance(4));
  const bool in_place = r.chance(2);
  if (in_place)
    for (size_t i = 0; i < n; ++i) out.want[i] = out.got[i] = x[i];
  x.freeze();
  for (const bool tested : {false, true}) {
    float* o = tested ? out.got.data() : out.want.data();
    (tested ? t : ref).rms_norm(in_place ? o : x.data(), w.data(), eps, static_cast<int>(n), o);
  }
  return out.difference("out");
}

std::string layer_norm_case(Random& r, const Table& ref, const Table& t) {
  const size_t n = static_cast<size_t>(r.size(1200));
  Guarded<float> x = floats(r, n), w = floats(r, n), b = floats(r, n);
  w.freeze();
  b.freeze();
  const bool in_place = r.chance(2), bias = !r.chance(3);
  Outputs<float> out(r, n, !r.chance(4));
  if (in_place)
    for (size_t i = 0; i < n; ++i) out.want[i] = out.got[i] = x[i];
  x.freeze();
  for (const bool tested : {false, true}) {
    float* o = tested ? out.got.data() : out.want.data();
    (tested ? t : ref)
        .layer_norm(in_place ? o : x.data(), w.data(), bias ? b.data() : nullptr, 1e-5f, static_cast<int>(n), o);
  }
  return out.difference("out");
}

using Activation = void (*)(const float* gate, const float* up, float* out, int n);

std::string activation_case(Random& r, Activation ref, Activation t, bool gated) {
  const size_t n = static_cast<size_t>(r.size(600));
  Guarded<float> gate = floats(r, n), up = floats(r, n);
  if (r.chance(3))
    for (float& v : gate) v = 6.0f * r.uniform();
  const int where = r.range(0, gated ? 2 : 1);  // out is its own array, gate, or up
  Outputs<float> out(r, n, !r.chance(4));
  for (size_t i = 0; i < n; ++i)
    if (where) out.want[i] = out.got[i] = where == 1 ? gate[i] : up[i];
  gate.freeze();
  up.freeze();
  for (const bool tested : {false, true}) {
    float* o = tested ? out.got.data() : out.want.data();
    const float* u = where == 2 ? o : up.data();
    (tested ? t : ref)(where == 1 ? o : gate.data(), gated ? u : nullptr, o, static_cast<int>(n));
  }
  return out.difference("out");
}

std::string soft_cap_case(Random& r, const Table& ref, const Table& t) {
  const size_t n = static_cast<size_t>(r.size(600));
  const float scale = r.chance(2) ? 1.0f : r.uniform(), cap = static_cast<float>(r.range(1, 60));
  Outputs<float> x(r, n, !r.chance(4));
  fill_floats(r, x.want);
  std::memcpy(x.got.data(), x.want.data(), x.want.bytes());
  ref.soft_cap(x.want.data(), scale, cap, static_cast<int>(n));
  t.soft_cap(x.got.data(), scale, cap, static_cast<int>(n));
  return x.difference("x");
}

std::string rope_case(Random& r, const Table& ref, const Table& t) {
  const size_t half = static_cast<size_t>(r.size(80));
  const size_t d = 2 * half + (r.chance(2) ? 0 : static_cast<size_t>(r.range(1, 40)));
  Guarded<float> c = floats(r, half), s = floats(r, half);
  c.freeze();
  s.freeze();
  Outputs<float> x(r, d, !r.chance(4));
  fill_floats(r, x.want);
  std::memcpy(x.got.data(), x.want.data(), x.want.bytes());
  const bool interleaved = r.chance(2);
  ref.rope(x.want.data(), c.data(), s.data(), static_cast<int>(2 * half), interleaved);
  t.rope(x.got.data(), c.data(), s.data(), static_cast<int>(2 * half), interleaved);
  const std::string diff = x.difference("x");
  return diff.empty() ? "" : concat(diff, " (n_rot ", 2 * half, interleaved ? ", interleaved)" : ", halves)");
}

std::string sum_exp_case(Random& r, const Table& ref, const Table& t) {
  const size_t n = static_cast<size_t>(r.size(1500));
  Guarded<float> x = floats(r, n);
  x.freeze();
  float max = r.uniform();
  if (r.chance(2))
    for (const float v : x) max = v > max ? v : max;
  Outputs<float> sum(r, 1, true);
  sum.want[0] = ref.sum_exp(x.data(), max, static_cast<int>(n));
  sum.got[0] = t.sum_exp(x.data(), max, static_cast<int>(n));
  return sum.difference("sum");
}

// Nothing to compare: that its instructions run here, and that what it counts grows with the rounds.
std::string int8_peak_case(Random& r, const Table&, const Table& t) {
  const int rounds = r.range(2, 50);
  const int64_t one = t.int8_peak(1), all = t.int8_peak(rounds);
  return one > 0 && all == rounds * one ? "" : concat(rounds, " rounds count ", all, ", one counts ", one);
}

}  // namespace

void add_row_members(const Table& ref, const Table& t, std::vector<Member>& all) {
  all.push_back({"softmax_page", softmax_page_case, t.softmax_page != ref.softmax_page});
  all.push_back({"softmax_merge", softmax_merge_case, t.softmax_merge != ref.softmax_merge});
  all.push_back({"dequantize_keys", dequantize_keys_case, t.dequantize_keys != ref.dequantize_keys});
  all.push_back({"quantize_q8", quantize_case, t.quantize_q8 != ref.quantize_q8});
  all.push_back({"quantize_q16", quantize_q16_case, t.quantize_q16 != ref.quantize_q16});
  all.push_back({"f32_to_f16", to_f16_case, t.f32_to_f16 != ref.f32_to_f16});
  all.push_back({"add", add_case, t.add != ref.add});
  all.push_back({"rms_norm", rms_norm_case, t.rms_norm != ref.rms_norm});
  all.push_back({"layer_norm", layer_norm_case, t.layer_norm != ref.layer_norm});
  const auto activation = [&](const char* name, Activation Table::* member, bool may_lack_gate) {
    const auto run = [member, may_lack_gate](Random& r, const Table& a, const Table& b) {
      return activation_case(r, a.*member, b.*member, !may_lack_gate || r.chance(2));
    };
    all.push_back({name, run, t.*member != ref.*member});
  };
  activation("swiglu", &Table::swiglu, false);
  activation("gelu_tanh", &Table::gelu_tanh, true);
  activation("gelu_erf", &Table::gelu_erf, true);
  all.push_back({"soft_cap", soft_cap_case, t.soft_cap != ref.soft_cap});
  all.push_back({"rope", rope_case, t.rope != ref.rope});
  all.push_back({"sum_exp", sum_exp_case, t.sum_exp != ref.sum_exp});
  all.push_back({"int8_peak", int8_peak_case, t.int8_peak != ref.int8_peak});
}

}  // namespace lora_edge
