// Input of one kernel call at a given shape, for timing and counting: ordinary finite values.
#pragma once

#include <algorithm>
#include <vector>

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
        xs(xd.size()) {
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
  Guarded<int32_t> xs;
  MatmulArgs args{};
};

struct AttentionInput {
  AttentionInput(DType type, int group, int d, int n_pos)
      : body(kPagePositions * row_bytes(type, static_cast<size_t>(d))),
        kv(static_cast<size_t>((n_pos + kPagePositions - 1) / kPagePositions) * 2 * body),
        q(static_cast<size_t>(group * d)),
        out(q.size()) {
    Random r(1);
    for (size_t i = 0; i < kv.size() / row_bytes(type, 1); ++i) {
      const float f = r.uniform();
      const uint16_t h = f32_to_f16(f);
      const bool f32 = type == DType::f32;
      std::memcpy(kv.data() + i * row_bytes(type, 1), f32 ? static_cast<const void*>(&f) : &h, f32 ? 4 : 2);
    }
    for (size_t at = 0; at < kv.size(); at += 2 * body) pages.push_back(kv.data() + at);
    for (float& v : q) v = r.uniform();
    args.q = q.data();
    args.group = group;
    args.d = d;
    args.pages = pages.data();
    args.v_offset = body;
    args.n_pos = n_pos;
    args.scale = 0.125f;
    args.out = out.data();
  }

  size_t body;
  Guarded<uint8_t> kv;
  Guarded<float> q, out;
  std::vector<const uint8_t*> pages;
  AttentionArgs args{};
};

}  // namespace lora_edge
