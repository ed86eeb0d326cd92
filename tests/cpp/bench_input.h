// Input of one kernel call at a given shape, for timing and counting: ordinary finite values.
#pragma once

#include <algorithm>

#include "kernels/kernels.h"
#include "random_input.h"

namespace lora_edge {

// W has `copies` times n rows, so that a pass over all of them can be a pass over memory.
struct MatmulInput {
  MatmulInput(DType type, int k, int n, int m, int copies = 1)
      : w(row_bytes(type, static_cast<size_t>(k)) * static_cast<size_t>(n) * static_cast<size_t>(copies)),
        scratch(kScratchBytes),
        x(static_cast<size_t>(m) * static_cast<size_t>(k)),
        xd(x.size() / kBlock + 1),
        y(static_cast<size_t>(m) * static_cast<size_t>(n)),
        xq(x.size()),
        xs(2 * xd.size()) {
    Random r(1);
    for (size_t i = 0; i + 4 <= w.size(); i += 4) {  // finite halves, any int8
      const uint32_t bits = r.bits() & 0xbbffbbffu;
      std::memcpy(w.data() + i, &bits, 4);
    }
    for (float& v : x) v = r.uniform();
    for (float& v : xd) v = r.uniform();
    for (int8_t& v : xq) v = static_cast<int8_t>(r.range(-127, 127));
    args.w = w.data();
    args.w_stride = row_bytes(type, static_cast<size_t>(k));
    args.k = k;
    args.m = m;
    args.x = x.data();
    args.ldx = static_cast<size_t>(k);
    args.xq = xq.data();
    args.xd = xd.data();
    args.xs = xs.data();
    args.y = y.data();
    args.ldy = static_cast<size_t>(n);
    args.n0 = 0;
    args.n1 = n;
    args.scratch = scratch.data();
  }

  Guarded<uint8_t> w, scratch;
  Guarded<float> x, xd, y;
  Guarded<int8_t> xq;
  Guarded<int16_t> xs;
  MatmulArgs args{};
};

}  // namespace lora_edge
