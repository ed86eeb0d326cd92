#include "backend/cuda/weights.h"

#include "base/error.h"

namespace lora_edge::cuda {
namespace {

int float_kind(DType type) { return type == DType::f32 ? kF32 : type == DType::f16 ? kF16 : kBf16; }

// Blocks of a file as numbers and scales apart.
struct Apart {
  std::vector<uint8_t> q;
  std::vector<uint16_t> d;
};

void add_block(const BlockQ8_0& block, uint8_t* q) { std::memcpy(q, block.qs, kBlock); }
void add_block(const BlockQ4_0& block, uint8_t* q) { std::memcpy(q, block.qs, 16); }
void add_block(const BlockQ5_0& block, uint8_t* q) {
  uint32_t high;
  std::memcpy(&high, block.qh, 4);
  for (int i = 0; i < 16; ++i) {
    q[i] = uint8_t(((block.qs[i] & 15) | (high >> i & 1) << 4) - 16);
    q[16 + i] = uint8_t((block.qs[i] >> 4 | (high >> (16 + i) & 1) << 4) - 16);
  }
}
void add_block(const BlockIq4Nl& block, uint8_t* q) {
  for (int i = 0; i < 16; ++i) {
    q[i] = uint8_t(kIq4Nl[block.qs[i] & 15]);
    q[16 + i] = uint8_t(kIq4Nl[block.qs[i] >> 4]);
  }
}

template <class Block>
Apart apart(const uint8_t* data, size_t n_blocks, size_t bytes) {
  Apart out{std::vector<uint8_t>(n_blocks * bytes), std::vector<uint16_t>(n_blocks)};
  for (size_t b = 0; b < n_blocks; ++b) {
    Block block;
    std::memcpy(&block, data + b * sizeof(Block), sizeof(Block));
    out.d[b] = block.d;
    add_block(block, &out.q[b * bytes]);
  }
  return out;
}

Apart apart(const Weight& w) {
  const size_t n_blocks = size_t(w.n) * size_t(w.k) / kBlock;
  switch (w.type) {
    case DType::q8_0: return apart<BlockQ8_0>(w.data, n_blocks, 32);
    case DType::q5_0: return apart<BlockQ5_0>(w.data, n_blocks, 32);
    case DType::iq4_nl: return apart<BlockIq4Nl>(w.data, n_blocks, 32);
    default: return apart<BlockQ4_0>(w.data, n_blocks, 16);
  }
}

}  // namespace

bool keeps(DType type) {
  return !is_quantised(type) || type == DType::q8_0 || type == DType::q5_0 || type == DType::iq4_nl ||
         type == DType::q4_0;
}

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
    if (!keeps(w.type)) fail_input("[cuda] weights of type ", dtype_name(w.type), " are run by device='cpu' alone");
    m = {nullptr, nullptr, nullptr, float_kind(w.type), w.n, w.k};
    if (is_quantised(w.type)) {
      const Apart parts = apart(w);
      m.kind = w.type == DType::q4_0 ? kQ4 : kQ8;
      m.q = put(parts.q.data(), parts.q.size());
      m.d = put(parts.d.data(), parts.d.size() * sizeof(uint16_t));
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
