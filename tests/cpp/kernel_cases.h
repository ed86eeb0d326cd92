// The cases of check_kernels: one random call of a kernel, of `ref` and of the table to check.
#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "guarded.h"
#include "kernels/kernels.h"
#include "random_input.h"

namespace lora_edge {

// "" if `t` gives the bits of `ref`, else where it differs first.
using Case = std::function<std::string(Random&, const Table& ref, const Table& t)>;

struct Member {
  std::string name;
  Case run;
  bool own;  // not the pointer of `ref`
};

// Those that read weights or factors, and those of rows of activations.
void add_weight_members(const Table& ref, const Table& t, std::vector<Member>& all);
void add_row_members(const Table& ref, const Table& t, std::vector<Member>& all);

inline bool same(float a, float b) { return f32_to_bits(a) == f32_to_bits(b) || (std::isnan(a) && std::isnan(b)); }
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

inline Guarded<float> floats(Random& r, size_t count) {
  Guarded<float> a(count, !r.chance(4));
  fill_floats(r, a);
  return a;
}

}  // namespace lora_edge
