// Compares every kernel table that this CPU runs with `ref`, bit for bit, on random input.
//   check_kernels [--seed N] [--cases N] [--only SUBSTRING] [--bench]
// Exit status 1 on any difference. LORA_EDGE_ISA=name checks that table only, and that it is the active one.
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "bench_kernels.h"
#include "guarded.h"
#include "kernels/kernels.h"
#include "random_input.h"

namespace lora_edge {
namespace {

const char* const kTypeNames[kDTypes] = {"f32", "f16", "bf16", "q8_0"};

bool same(float a, float b) { return f32_to_bits(a) == f32_to_bits(b) || (std::isnan(a) && std::isnan(b)); }
template <class T>
bool same(T a, T b) {
  return a == b;
}

// Two copies of one output array with the same random bytes in them. The whole array is compared, so that a write
// outside of the asked range is seen as well.
template <class T>
struct Outputs {
  Outputs(Random& r, size_t count, bool at_end) : want(count, at_end), got(count, at_end) {
    for (size_t i = 0; i < count; ++i) want[i] = got[i] = static_cast<T>(r.range(-100, 100));
  }
  std::string difference(const char* name) const {
    for (size_t i = 0; i < want.size(); ++i)
      if (!same(want[i], got[i])) {
        char line[160];
        std::snprintf(line, sizeof(line), "%s[%zu of %zu] is %.9g, should be %.9g", name, i, want.size(),
                      static_cast<double>(got[i]), static_cast<double>(want[i]));
        return line;
      }
    return "";
  }
  Guarded<T> want, got;
};

// One random case: "" if `t` gives the bits of `ref`, else where it differs first.
using Case = std::function<std::string(Random&, const Table& ref, const Table& t)>;

Guarded<float> floats(Random& r, size_t count) {
  Guarded<float> a(count, !r.chance(4));
  fill_floats(r, a);
  return a;
}

void random_range(Random& r, int n, int* n0, int* n1) {
  *n0 = r.chance(2) ? 0 : r.range(0, n - 1);
  *n1 = r.chance(2) ? n : r.range(*n0, n);
}

std::string matmul_case(DType type, Random& r, const Table& ref, const Table& t) {
  const bool q8 = type == DType::q8_0;
  MatmulArgs a{};
  a.k = r.chance(30) ? 32 * r.range(64, 600) : q8 ? 32 * r.size(r.chance(4) ? 100 : 24) : r.size(700);
  a.m = r.chance(3) ? 1 : r.chance(20) ? r.range(250, 300) : r.size(40);  // kernels take chunks of 256
  const int64_t budget = 600000;                                          // multiply-adds
  int n = r.size(150);
  if (a.m > 200) a.k = 32 * r.size(6);
  while (static_cast<int64_t>(n) * a.k * a.m > budget && n > 9) n = n * 3 / 4;
  while (static_cast<int64_t>(n) * a.k * a.m > budget && a.m > 1) a.m = a.m * 3 / 4;
  random_range(r, n, &a.n0, &a.n1);

  const size_t bytes = row_bytes(type, static_cast<size_t>(a.k));
  a.w_stride = bytes + (r.chance(4) ? static_cast<size_t>(r.range(1, 9)) * 4 : 0);
  const bool at_end = !r.chance(4);
  Guarded<uint8_t> w((static_cast<size_t>(n) - 1) * a.w_stride + bytes, at_end);
  for (uint8_t& v : w) v = 0xff;
  for (int j = 0; j < n; ++j) {
    uint8_t* row = w.data() + static_cast<size_t>(j) * a.w_stride;
    if (q8)
      fill_q8(r, row, static_cast<size_t>(a.k / kBlock));
    else
      fill_elements(r, type, row, static_cast<size_t>(a.k));
  }
  a.w = w.freeze().data();

  const size_t rows = static_cast<size_t>(a.m), k = static_cast<size_t>(a.k);
  a.ldx = k + (r.chance(2) ? 0 : static_cast<size_t>(r.range(1, 5)));
  Guarded<float> x = floats(r, q8 ? 0 : (rows - 1) * a.ldx + k);
  Guarded<int8_t> xq(q8 ? rows * k : 0, at_end);
  Guarded<float> xd = floats(r, q8 ? rows * k / kBlock : 0);
  Guarded<int32_t> xs(q8 ? rows * k / kBlock : 0, at_end);
  if (q8) fill_int8(r, xq.data(), xq.size(), -127);
  for (size_t b = 0; b < xs.size(); ++b)
    xs[b] = std::accumulate(xq.data() + b * kBlock, xq.data() + (b + 1) * kBlock, 0);
  a.x = x.freeze().data();
  a.xq = xq.freeze().data();
  a.xd = xd.freeze().data();
  a.xs = xs.freeze().data();
  Guarded<uint8_t> scratch(kScratchBytes);
  a.scratch = scratch.data();

  a.ldy = static_cast<size_t>(n) + (r.chance(2) ? 0 : static_cast<size_t>(r.range(1, 5)));
  Outputs<float> y(r, (rows - 1) * a.ldy + static_cast<size_t>(n), at_end);
  a.y = y.want.data();
  ref.matmul[static_cast<int>(type)](a);
  a.y = y.got.data();
  t.matmul[static_cast<int>(type)](a);
  const std::string diff = y.difference("y");
  if (diff.empty()) return "";
  return concat(diff, " (m ", a.m, ", k ", a.k, ", n0 ", a.n0, ", n1 ", a.n1, ", ldy ", a.ldy, ")");
}

std::string dequantize_case(DType type, Random& r, const Table& ref, const Table& t) {
  const int k = type == DType::q8_0 ? 32 * r.size(40) : r.size(1000);
  const bool at_end = !r.chance(4);
  Guarded<uint8_t> w(row_bytes(type, static_cast<size_t>(k)), at_end);
  if (type == DType::q8_0)
    fill_q8(r, w.data(), static_cast<size_t>(k / kBlock));
  else
    fill_elements(r, type, w.data(), static_cast<size_t>(k));
  w.freeze();
  Outputs<float> out(r, static_cast<size_t>(k), at_end);
  ref.dequantize[static_cast<int>(type)](w.data(), out.want.data(), k);
  t.dequantize[static_cast<int>(type)](w.data(), out.got.data(), k);
  return out.difference("out");
}

std::string lowrank_case(DType type, Random& r, const Table& ref, const Table& t) {
  LowRankArgs a{};
  a.n = r.size(400);
  a.r = r.chance(10) ? r.range(65, 300) : r.size(64);
  a.m = r.chance(3) ? 1 : r.size(40);
  while (static_cast<int64_t>(a.n) * a.r * a.m > 400000 && a.m > 1) a.m /= 2;
  random_range(r, a.n, &a.n0, &a.n1);
  const size_t n = static_cast<size_t>(a.n), rank = static_cast<size_t>(a.r), rows = static_cast<size_t>(a.m);
  const bool at_end = !r.chance(4);
  Guarded<uint8_t> bt(rank * row_bytes(type, n), at_end);
  fill_elements(r, type, bt.data(), rank * n);
  a.bt = bt.freeze().data();
  a.ldu = rank + (r.chance(2) ? 0 : static_cast<size_t>(r.range(1, 5)));
  Guarded<float> u = floats(r, (rows - 1) * a.ldu + rank);
  a.u = u.freeze().data();
  a.ldy = n + (r.chance(2) ? 0 : static_cast<size_t>(r.range(1, 5)));
  Outputs<float> y(r, (rows - 1) * a.ldy + n, at_end);
  if (r.chance(2)) {
    fill_floats(r, y.want);
    std::memcpy(y.got.data(), y.want.data(), y.want.bytes());
  }
  a.y = y.want.data();
  ref.lowrank[static_cast<int>(type)](a);
  a.y = y.got.data();
  t.lowrank[static_cast<int>(type)](a);
  const std::string diff = y.difference("y");
  return diff.empty() ? "" : concat(diff, " (m ", a.m, ", r ", a.r, ", n ", a.n, ", n0 ", a.n0, ", n1 ", a.n1, ")");
}

std::string transpose_case(DType type, Random& r, const Table& ref, const Table& t) {
  const int n = r.range(1, 64), depth = r.size(100);
  const size_t stride = row_bytes(type, static_cast<size_t>(depth)) + 4 * static_cast<size_t>(r.range(0, 9));
  Guarded<uint8_t> in((static_cast<size_t>(n) - 1) * stride + row_bytes(type, static_cast<size_t>(depth)), true);
  for (uint8_t& v : in) v = 0;
  for (int j = 0; j < n; ++j)
    fill_elements(r, type, in.data() + static_cast<size_t>(j) * stride, static_cast<size_t>(depth));
  in.freeze();
  Outputs<float> out(r, static_cast<size_t>(n) * static_cast<size_t>(depth), true);
  ref.transpose[static_cast<int>(type)](in.data(), stride, n, depth, out.want.data());
  t.transpose[static_cast<int>(type)](in.data(), stride, n, depth, out.got.data());
  return out.difference("out");
}

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
  Outputs<int32_t> s(r, k / kBlock, !r.chance(4));
  ref.quantize_q8(x.data(), q.want.data(), d.want.data(), s.want.data(), static_cast<int>(k));
  t.quantize_q8(x.data(), q.got.data(), d.got.data(), s.got.data(), static_cast<int>(k));
  const std::string diff = d.difference("d") + s.difference("s");
  return diff.empty() ? q.difference("q") : diff;
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

std::string swiglu_case(Random& r, const Table& ref, const Table& t) {
  const size_t n = static_cast<size_t>(r.size(600));
  Guarded<float> gate = floats(r, n), up = floats(r, n);
  const int where = r.range(0, 2);  // out is its own array, gate, or up
  Outputs<float> out(r, n, !r.chance(4));
  for (size_t i = 0; i < n; ++i)
    if (where) out.want[i] = out.got[i] = where == 1 ? gate[i] : up[i];
  gate.freeze();
  up.freeze();
  for (const bool tested : {false, true}) {
    float* o = tested ? out.got.data() : out.want.data();
    (tested ? t : ref).swiglu(where == 1 ? o : gate.data(), where == 2 ? o : up.data(), o, static_cast<int>(n));
  }
  return out.difference("out");
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

struct Member {
  std::string name;
  Case run;
  bool own;  // not the pointer of `ref`
};

std::vector<Member> members(const Table& ref, const Table& t) {
  std::vector<Member> all;
  const auto by_type = [&](const char* name, auto member, auto run) {
    for (int i = 0; i < kDTypes; ++i) {
      if (!(ref.*member)[i]) continue;
      const auto typed = [run, i](Random& r, const Table& a, const Table& b) {
        return run(static_cast<DType>(i), r, a, b);
      };
      all.push_back({concat(name, "_", kTypeNames[i]), typed, (t.*member)[i] != (ref.*member)[i]});
    }
  };
  by_type("matmul", &Table::matmul, matmul_case);
  by_type("dequantize", &Table::dequantize, dequantize_case);
  by_type("lowrank", &Table::lowrank, lowrank_case);
  by_type("transpose", &Table::transpose, transpose_case);
  all.push_back({"softmax_page", softmax_page_case, t.softmax_page != ref.softmax_page});
  all.push_back({"softmax_merge", softmax_merge_case, t.softmax_merge != ref.softmax_merge});
  all.push_back({"dequantize_keys", dequantize_keys_case, t.dequantize_keys != ref.dequantize_keys});
  all.push_back({"quantize_q8", quantize_case, t.quantize_q8 != ref.quantize_q8});
  all.push_back({"f32_to_f16", to_f16_case, t.f32_to_f16 != ref.f32_to_f16});
  all.push_back({"add", add_case, t.add != ref.add});
  all.push_back({"rms_norm", rms_norm_case, t.rms_norm != ref.rms_norm});
  all.push_back({"swiglu", swiglu_case, t.swiglu != ref.swiglu});
  all.push_back({"rope", rope_case, t.rope != ref.rope});
  all.push_back({"sum_exp", sum_exp_case, t.sum_exp != ref.sum_exp});
  all.push_back({"int8_peak", int8_peak_case, t.int8_peak != ref.int8_peak});
  return all;
}

// The count of members that differ; an error if none was compared.
int check_table(const Table& ref, const Table& t, uint64_t seed, int cases, const std::string& only) {
  int failed = 0, compared = 0;
  for (const Member& member : members(ref, t)) {
    if (member.name.find(only) == std::string::npos) continue;
    std::printf("%-12s %-16s ", t.name, member.name.c_str());
    if (!member.own) {
      std::printf("is ref's\n");
      continue;
    }
    std::fflush(stdout);  // so that a crash says where
    std::string diff;
    for (int i = 0; i < cases && diff.empty(); ++i) {
      Random r(seed + static_cast<uint64_t>(i));
      diff = member.run(r, ref, t);
      if (!diff.empty()) diff = concat("FAILED, --seed ", seed + static_cast<uint64_t>(i), ": ", diff);
    }
    std::printf("%s\n", diff.empty() ? "ok" : diff.c_str());
    failed += !diff.empty();
    ++compared;
  }
  if (compared == 0 || cases < 1) fail_input("nothing of the table ", t.name, " was compared");
  return failed;
}

int run(int argc, char** argv) {
  uint64_t seed = std::random_device()();
  int cases = 200;
  bool bench = false;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--bench")
      bench = true;
    else if (flag == "--seed" && i + 1 < argc)
      seed = std::strtoull(argv[++i], nullptr, 10);
    else if (flag == "--cases" && i + 1 < argc)
      cases = std::atoi(argv[++i]);
    else if (flag == "--only" && i + 1 < argc)
      only = argv[++i];
    else
      fail_input("unknown option ", flag, "; known: --seed N, --cases N, --only SUBSTRING, --bench");
  }
  const Table& active = active_table();  // throws if LORA_EDGE_ISA can't be had
  const char* forced = std::getenv("LORA_EDGE_ISA");
  const bool force = forced && *forced;
  if (force && std::string(active.name) != forced)
    fail_input("LORA_EDGE_ISA=", forced, ", but the active table is ", active.name);

  int count = 0, failed = 0;
  const TableInfo* tables = all_tables(&count);
  const Table& ref = tables[0].get();
  std::printf("active table: %s; seed %llu\n", active.name, static_cast<unsigned long long>(seed));
  for (int i = 0; i < count; ++i) {
    if (force ? std::string(tables[i].name) != forced : i == 0) continue;
    if (!tables[i].runs_here) {
      std::printf("%-12s skipped: this CPU can't run it\n", tables[i].name);
      continue;
    }
    const Table& t = tables[i].get();
    if (std::string(t.name) != tables[i].name) fail_input("the table ", tables[i].name, " calls itself ", t.name);
    if (bench)
      bench_table(t);
    else if (i == 0)
      std::printf("ref is the specification: nothing to compare it with\n");
    else
      failed += check_table(ref, t, seed, cases, only);
  }
  if (failed) std::printf("%d members differ from ref\n", failed);
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace lora_edge

int main(int argc, char** argv) {
  try {
    return lora_edge::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "check_kernels: %s\n", e.what());
    return 1;
  }
}
