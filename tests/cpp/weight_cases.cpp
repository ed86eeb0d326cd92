// What reads weights or factors: matmul, dequantize, lowrank, transpose, and the backend's input gradient.
#include <numeric>

#include "base/error.h"
#include "gradient_case.h"
#include "kernel_cases.h"

namespace lora_edge {
namespace {

void random_range(Random& r, int n, int* n0, int* n1) {
  *n0 = r.chance(2) ? 0 : r.range(0, n - 1);
  *n1 = r.chance(2) ? n : r.range(*n0, n);
}

std::string matmul_case(DType type, Random& r, const Table& ref, const Table& t) {
  const bool q8 = is_quantised(type);
  const int unit = q8 ? static_cast<int>(block_size(type).elements) : kBlock;
  MatmulArgs a{};
  a.k = r.chance(30) ? unit * (r.range(64, 600) / (unit / 32))
        : q8         ? unit * r.size((r.chance(4) ? 100 : 24) * 32 / unit)
                     : r.size(700);
  a.m = r.chance(3) ? 1 : r.chance(20) ? r.range(250, 300) : r.size(40);  // kernels take chunks of 256
  const int64_t budget = 600000;                                          // multiply-adds
  int n = r.size(150);
  if (a.m > 200) a.k = unit * r.size(192 / unit + 1);
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
      fill_blocks(r, type, row, static_cast<size_t>(a.k));
    else
      fill_elements(r, type, row, static_cast<size_t>(a.k));
  }
  a.w = w.freeze().data();

  const size_t rows = static_cast<size_t>(a.m), k = static_cast<size_t>(a.k);
  a.ldx = k + (r.chance(2) ? 0 : static_cast<size_t>(r.range(1, 5)));
  Guarded<float> x = floats(r, q8 ? 0 : (rows - 1) * a.ldx + k);
  Guarded<int8_t> xq(q8 ? rows * k : 0, at_end);
  Guarded<float> xd = floats(r, q8 ? rows * k / kBlock : 0);
  Guarded<int16_t> xs(q8 ? rows * k / 16 : 0, at_end);
  if (q8) fill_int8(r, xq.data(), xq.size(), -127);
  for (size_t b = 0; b < xs.size(); ++b)
    xs[b] = static_cast<int16_t>(std::accumulate(xq.data() + b * 16, xq.data() + (b + 1) * 16, 0));
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
  const int unit = static_cast<int>(block_size(type).elements);
  const int k = unit * r.size(unit == 1 ? 1000 : 40 * 32 / unit);
  const bool at_end = !r.chance(4);
  Guarded<uint8_t> w(row_bytes(type, static_cast<size_t>(k)), at_end);
  if (is_quantised(type))
    fill_blocks(r, type, w.data(), static_cast<size_t>(k));
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
  a.next = r.chance(2) ? bt.data() + bt.bytes() : nullptr;  // needn't be there
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

}  // namespace

void add_weight_members(const Table& ref, const Table& t, std::vector<Member>& all) {
  const auto by_type = [&](const char* name, auto member, auto run) {
    for (int i = 0; i < kDTypes; ++i) {
      if (!(ref.*member)[i]) continue;
      const auto typed = [run, i](Random& r, const Table& a, const Table& b) {
        return run(static_cast<DType>(i), r, a, b);
      };
      all.push_back({concat(name, "_", dtype_name(static_cast<DType>(i))), typed, (t.*member)[i] != (ref.*member)[i]});
    }
  };
  by_type("matmul", &Table::matmul, matmul_case);
  by_type("dequantize", &Table::dequantize, dequantize_case);
  by_type("lowrank", &Table::lowrank, lowrank_case);
  by_type("transpose", &Table::transpose, transpose_case);
  all.push_back({"input_gradient", input_gradient_case, true});  // of the backend, by its table
}

}  // namespace lora_edge
