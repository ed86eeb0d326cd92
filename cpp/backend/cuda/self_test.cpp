#include "backend/cuda/self_test.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <vector>

#include "backend/backend.h"
#include "base/error.h"
#include "kernels/kernels.h"

namespace lora_edge {
namespace {

constexpr int kRows = 35, kDepth = 256, kOutputs = 72;
constexpr int kRanks[] = {5, 40};  // odd, and more than matmul takes at once
constexpr float kTolerance = 1e-3f;

const DType kTypes[] = {DType::f32,  DType::f16,  DType::bf16,   DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_0,
                        DType::q5_1, DType::q2_k, DType::iq4_nl, DType::q3_k, DType::q4_k, DType::q5_k, DType::q6_k};

// Bytes of a block at which its halves d, and dmin or m, lie.
std::vector<size_t> scales_at(DType type) {
  switch (type) {
    case DType::q2_k: return {offsetof(BlockQ2K, d), offsetof(BlockQ2K, dmin)};
    case DType::q3_k: return {offsetof(BlockQ3K, d)};
    case DType::q6_k: return {offsetof(BlockQ6K, d)};
    case DType::q4_1:
    case DType::q5_1:
    case DType::q4_k:
    case DType::q5_k: return {0, 2};
    default: return {0};
  }
}

// A kind of operation, and what it made.
struct Made {
  const char* kind;
  std::vector<float> values;
};

class Case {
 public:
  explicit Case(Backend& backend) : backend_(backend) {
    c_.n_layer = 1;
    c_.n_embd = kDepth;
    c_.n_head = 4;
    c_.n_head_kv = 2;
    c_.head_dim = 32;
    c_.n_vocab = kOutputs;
    c_.n_rot = 16;
    c_.norm_eps = 1e-5f;
    c_.attention_scale = 0.2f;
    c_.layers = {{0, 0}};
  }

  std::vector<Made> run() {
    linears();
    rows();
    attention();
    likeliest();
    return std::move(made_);
  }

 private:
  std::vector<float> floats(size_t n) {
    std::uniform_real_distribution<float> even(-2.0f, 2.0f);
    std::vector<float> out(n);
    for (float& x : out) x = even(rng_);
    return out;
  }

  const float* kept(std::vector<float> values) {
    kept_.push_back(std::make_shared<std::vector<float>>(std::move(values)));
    return static_cast<std::vector<float>*>(kept_.back().get())->data();
  }

  // Random weights [n, k]; scales of blocks are halves, small enough for what the type multiplies them with.
  Weight weight(DType type, int n, int k, bool bias = false) {
    auto bytes = std::make_shared<std::vector<uint8_t>>(size_t(n) * row_bytes(type, size_t(k)));
    kept_.push_back(bytes);
    if (is_quantised(type)) {
      for (uint8_t& b : *bytes) b = uint8_t(rng_());
      const size_t size = block_size(type).bytes;
      for (size_t at = 0; at < bytes->size(); at += size)
        for (const size_t offset : scales_at(type)) {
          const uint16_t d = f32_to_f16(float(1 + rng_() % 8) / (type >= DType::q2_k ? 8192.0f : 256.0f));
          std::memcpy(&(*bytes)[at + offset], &d, 2);
        }
    } else {
      const std::vector<float> values = floats(size_t(n) * size_t(k));
      for (size_t i = 0; i < values.size(); ++i) {
        const uint16_t half = type == DType::f16 ? f32_to_f16(values[i]) : uint16_t(f32_to_bits(values[i]) >> 16);
        if (type == DType::f32) {
          std::memcpy(&(*bytes)[i * 4], &values[i], 4);
        } else {
          std::memcpy(&(*bytes)[i * 2], &half, 2);
        }
      }
    }
    return {type, bytes->data(), n, k, bias ? kept(floats(size_t(n))) : nullptr};
  }

  float* in(const std::vector<float>& values) {
    buffers_.emplace_back(backend_);
    float* data = buffers_.back().grow(values.size());
    backend_.write(data, values.data(), values.size() * sizeof(float));
    return data;
  }
  void out(const char* kind, const float* data, size_t n) {
    Made made{kind, std::vector<float>(n)};
    backend_.read(made.values.data(), data, n * sizeof(float));
    made_.push_back(std::move(made));
  }

  void linears() {
    const AdapterSet none;
    AdapterSet all;
    for (const int r : kRanks) {
      auto adapter = std::make_shared<Adapter>("test", c_);
      const Weight a = weight(DType::f16, r, kDepth), b = weight(r % 8 ? DType::f32 : DType::f16, kOutputs, r);
      adapter->set(kQ, kOutputs, size_t(r) * kDepth, r, 0.1f, a.type, a.data, b.type, b.data);
      all.push_back(ActiveAdapter(adapter, 1.0f));
    }
    KvLayout layout(c_, DType::f16);
    KvCache kv(backend_, layout, bytes_);
    const std::vector<float> x = floats(size_t(kRows) * kDepth);
    for (const AdapterSet* set : {&none, &std::as_const(all)})
      for (const DType type : kTypes)
        for (const int m : {1, kRows - 1, kRows}) {
          const Weight w = weight(type, kOutputs, kDepth, true);
          const std::vector<RowPlace> places(size_t(m), RowPlace{&kv, 0, 0});
          std::vector<RowGroup> groups{{0, m, set, 0}};
          if (m == kRows) groups = {{0, 9, &none, 0}, {9, m, set, 0}};  // rows of a tile that differ
          float* y = in(floats(size_t(m) * kOutputs));
          backend_.begin(c_, places, groups);
          backend_.linear({{&w, kQ, y, true, 0.5f}}, in(x), m, groups);
          out(set->empty() ? "products" : "low-rank updates", y, size_t(m) * kOutputs);
        }
  }

  void rows() {
    const std::vector<float> values = floats(size_t(kRows) * kDepth);
    const NormWeight w{kept(floats(kDepth)), kept(floats(kDepth))};
    for (const Norm kind : {Norm::rms, Norm::layer}) {
      c_.norm = kind;
      float *x = in(values), *y = in(values);
      backend_.norm(c_, x, {w.w, kind == Norm::rms ? nullptr : w.b}, kRows, kDepth, y);
      out("norms", y, values.size());
    }
    c_.norm = Norm::rms;
    for (const Activation kind : {Activation::silu, Activation::gelu_tanh, Activation::gelu_erf}) {
      c_.activation = kind;
      float* x = in(values);
      backend_.activate(c_, x, x, kDepth, kRows, kDepth, x);
      out("activations", x, values.size());
    }
    float* x = in(values);
    backend_.scale(x, 3.0f, kRows, kDepth);
    backend_.soft_cap(x, 2.0f, kRows, kDepth);
    backend_.take_rows(x, {1, 4, kRows - 1}, kDepth, x);
    out("rows", x, 3 * size_t(kDepth));
    const AdapterSet none;
    const std::vector<RowGroup> groups{{0, 3, &none, 0}};
    KvLayout layout(c_, DType::f16);
    KvCache kv(backend_, layout, bytes_);
    backend_.begin(c_, std::vector<RowPlace>(3, RowPlace{&kv, 0, 0}), groups);
    const int tokens[] = {5, 0, kOutputs - 1};
    for (const DType type : kTypes) {
      backend_.embed(weight(type, kOutputs, kDepth), embedding_id(c_), tokens, groups, 3, x);
      out("embeddings", x, 3 * size_t(kDepth));
    }
  }

  // 70 positions, in two calls, so that pages, spans and rows of one block differ.
  void attention() {
    const AdapterSet none;
    for (const DType type : {DType::f16, DType::f32}) {
      KvLayout layout(c_, type);
      KvCache kv(backend_, layout, bytes_);
      for (const int n : {66, 4}) {
        kv.reserve(n);
        std::vector<RowPlace> places;
        for (int i = 0; i < n; ++i) places.push_back({&kv, kv.length() + i, kv.length() + i + 1});
        const std::vector<RowGroup> groups{{0, n, &none, 0}};
        const size_t q_dim = size_t(c_.q_dim()), kv_dim = size_t(c_.kv_dim()), angles = size_t(n * c_.n_rot / 2);
        float *q = in(floats(size_t(n) * q_dim)), *k = in(floats(size_t(n) * kv_dim)),
              *v = in(floats(size_t(n) * kv_dim));
        backend_.begin(c_, places, groups);
        const Rotation rotation{in(floats(angles)), in(floats(angles))};
        backend_.rope_store(c_, layout, 0, places, {q, k, v, q_dim, kv_dim}, nullptr, nullptr, rotation);
        float* heads = in(std::vector<float>(size_t(n) * q_dim));
        backend_.attention(c_, layout, 0, places, q, q_dim, heads);
        out("attention", heads, size_t(n) * q_dim);
        kv.advance(n);
      }
    }
  }

  // Two rows of some stretches.
  void likeliest() {
    const int n = 10000, m = 2;
    std::vector<float> logits = floats(size_t(m) * size_t(n));
    const float* x = in(logits);
    std::vector<Likeliest> found = backend_.likeliest(x, m, n);
    for (size_t row = 0; row < size_t(m); ++row) {
      Made tokens{"likeliest tokens", {}}, sum{"sums of probabilities", {}};  // tokens by their logits
      const float* begin = &logits[row * size_t(n)];
      if (!found.empty()) {
        for (size_t i = 0; i < 3; ++i) {
          const int id = found[row].candidates[i].id;
          tokens.values.push_back(id >= 0 && id < n ? begin[id] : NAN);
        }
        sum.values.push_back(float(found[row].log_total));
      } else {
        std::vector<float> sorted(begin, begin + n);
        double total = 0;
        for (const float logit : sorted) total += std::exp(double(logit));
        std::partial_sort(sorted.begin(), sorted.begin() + 3, sorted.end(), std::greater<>());
        tokens.values.assign(sorted.begin(), sorted.begin() + 3);
        sum.values.push_back(float(std::log(total)));
      }
      made_.push_back(std::move(tokens));
      made_.push_back(std::move(sum));
    }
  }

  Backend& backend_;
  std::mt19937 rng_{7};
  Config c_{};
  std::vector<std::shared_ptr<void>> kept_;
  std::vector<Activations> buffers_;
  std::vector<Made> made_;
  std::shared_ptr<std::atomic<size_t>> bytes_ = std::make_shared<std::atomic<size_t>>(0);
};

std::string compare(int index) {
  try {
    const auto cpu = make_cpu_backend(1, {}), gpu = make_cuda_backend(index);
    const std::vector<Made> expected = Case(*cpu).run(), made = Case(*gpu).run();
    for (size_t i = 0; i < expected.size(); ++i) {
      float most = 0.0f, off = 0.0f;
      for (size_t j = 0; j < expected[i].values.size(); ++j) {
        const float d = std::fabs(made[i].values[j] - expected[i].values[j]);
        most = std::max(most, std::fabs(expected[i].values[j]));
        off = d > off || d != d ? d : off;
      }
      if (!(off <= kTolerance * most))
        return concat("its ", expected[i].kind, " differ from the CPU's by ", off, " of ", most);
    }
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace

std::string cuda_self_test(int index) {
  static std::mutex mutex;
  static std::map<int, std::string> results;
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = results.find(index);
  return found != results.end() ? found->second : results[index] = compare(index);
}

}  // namespace lora_edge
