#include "backend/cuda/weights.h"

#include "formats/unpack.h"

namespace lora_edge::cuda {
namespace {

int float_kind(DType type) { return type == DType::f32 ? kF32 : type == DType::f16 ? kF16 : kBf16; }

Kind kind_of(DType type) {
  switch (type) {
    case DType::q4_0: return kQ4;
    case DType::q5_1: return kQ8Min;
    case DType::q4_1: return kQ4Min;
    case DType::q5_k: return kQ8Sub;
    case DType::q4_k: return kQ4Sub;
    case DType::q2_k:
    case DType::q3_k:
    case DType::q6_k: return kQ8Halves;
    default: return kQ8;
  }
}

// Blocks of a file as args.h wants them: numbers, scales d and dmin, and scales and minima in bytes.
struct Apart {
  std::vector<uint8_t> q, s;
  std::vector<uint16_t> d;
};

template <DType type>
Apart apart(const Weight& w) {
  const Kind kind = kind_of(type);
  const bool nibbles = kind == kQ4 || kind == kQ4Min || kind == kQ4Sub, super = type >= DType::q2_k;
  const size_t n_blocks = size_t(w.n) * size_t(w.k) / kBlock, bytes = nibbles ? 16 : 32,
               s_bytes = has_halves(type) ? 4 : 2;
  Apart out;
  out.q.resize(n_blocks * bytes);
  out.d.resize(is_plain(kind) ? n_blocks : 2 * (super ? n_blocks / 8 : n_blocks));
  out.s.resize(super ? n_blocks * s_bytes : 0);
  for (size_t b = 0; b < n_blocks; ++b) {
    const size_t at = super ? b / 8 : b;  // of the file's blocks
    const Unpacked u = unpack<type>(w.data + at * block_size(type).bytes, super ? int(b % 8) : 0);
    uint8_t* q = &out.q[b * bytes];
    if (nibbles) {
      const int offset = kind == kQ4 ? 8 : 0;
      for (int i = 0; i < 16; ++i) q[i] = uint8_t((u.q[i] + offset) | (u.q[16 + i] + offset) << 4);
    } else {
      for (int i = 0; i < kBlock; ++i) q[i] = uint8_t(u.q[i]);
    }
    if (is_plain(kind)) {
      out.d[b] = f32_to_f16(u.d);
    } else if (!super || b % 8 == 0) {
      uint16_t* d = &out.d[2 * at];
      d[0] = f32_to_f16(u.d);
      d[1] = f32_to_f16(u.dmin);
    }
    if (!super) continue;
    uint8_t* s = &out.s[b * s_bytes];
    for (size_t h = 0; h < s_bytes / 2; ++h) {
      s[h] = uint8_t(u.scale[h]);
      s[s_bytes / 2 + h] = uint8_t(u.min[h]);
    }
  }
  return out;
}

Apart apart(const Weight& w) {
  switch (w.type) {
    case DType::q8_0: return apart<DType::q8_0>(w);
    case DType::q4_0: return apart<DType::q4_0>(w);
    case DType::q4_1: return apart<DType::q4_1>(w);
    case DType::q5_0: return apart<DType::q5_0>(w);
    case DType::q5_1: return apart<DType::q5_1>(w);
    case DType::iq4_nl: return apart<DType::iq4_nl>(w);
    case DType::q2_k: return apart<DType::q2_k>(w);
    case DType::q3_k: return apart<DType::q3_k>(w);
    case DType::q4_k: return apart<DType::q4_k>(w);
    case DType::q5_k: return apart<DType::q5_k>(w);
    default: return apart<DType::q6_k>(w);
  }
}

}  // namespace

void* Weights::put(const void* data, size_t n_bytes) {
  auto memory = std::make_unique<DeviceMemory>(context_, n_bytes);
  void* to = memory->data();
  context_->copy_in(to, data, n_bytes);
  context_->wait();
  kept_[to] = std::move(memory);
  n_bytes_ += n_bytes;
  return to;
}

const float* Weights::floats(const float* data, size_t n) {
  if (!data) return nullptr;
  const auto found = matrices_.find(data);
  if (found != matrices_.end()) return static_cast<const float*>(found->second.q);
  Matrix m{};
  m.q = put(data, n * sizeof(float));
  matrices_[data] = m;
  return static_cast<const float*>(m.q);
}

Matrix Weights::matrix(const Weight& w) {
  const auto found = matrices_.find(w.data);
  Matrix m;
  if (found != matrices_.end()) {
    m = found->second;
  } else {
    m = {nullptr, nullptr, nullptr, nullptr, is_quantised(w.type) ? kind_of(w.type) : float_kind(w.type), w.n, w.k};
    if (is_quantised(w.type)) {
      const Apart parts = apart(w);
      m.q = put(parts.q.data(), parts.q.size());
      m.d = put(parts.d.data(), parts.d.size() * sizeof(uint16_t));
      if (!parts.s.empty()) m.s = put(parts.s.data(), parts.s.size());
    } else {
      m.q = put(w.data, size_t(w.n) * row_bytes(w.type, size_t(w.k)));
    }
    matrices_[w.data] = m;
  }
  m.bias = floats(w.bias, size_t(w.n));  // of tied weights one may have a bias and the other none
  return m;
}

AdapterCopy::AdapterCopy(const std::shared_ptr<Context>& context, const Adapter& adapter, int n_ids) : own_(context) {
  const auto put = [&](const void* data, size_t n_bytes) -> void* {
    memory_.push_back(std::make_unique<DeviceMemory>(context, n_bytes));
    context->copy_in(memory_.back()->data(), data, n_bytes);
    return memory_.back()->data();
  };
  for (int id = 0; id < n_ids; ++id) {
    const LoraWeight& w = adapter.at(id);
    Part part{};
    if (w.r != 0) {
      part.a = put(w.a, w.a_bytes);
      part.b = put(w.b, w.b_bytes());
      part.r = w.r;
      part.scale = w.scale;
      part.a_kind = float_kind(w.a_type);
      part.b_kind = float_kind(w.b_type);
    }
    if (w.extra && !w.extra->bias.empty())
      part.bias = static_cast<const float*>(put(w.extra->bias.data(), w.extra->bias.size() * sizeof(float)));
    if (w.extra && w.extra->whole) wholes_[id] = own_.matrix(*w.extra->whole);
    parts_.push_back(part);
  }
  context->wait();
}

const Matrix* AdapterCopy::whole(int id) const {
  const auto found = wholes_.find(id);
  return found == wholes_.end() ? nullptr : &found->second;
}

}  // namespace lora_edge::cuda
