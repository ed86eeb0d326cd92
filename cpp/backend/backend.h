// The coarse operations a decoder is made of. Activations are row-major [m, width] floats in the backend's memory.
#pragma once

#include <memory>
#include <vector>

#include "formats/blocks.h"
#include "runtime/kv_cache.h"
#include "runtime/lora.h"

namespace lora_edge {

// W [n, k] as it lies in the file; bias [n] or nullptr.
struct Weight {
  DType type = DType::f32;
  const uint8_t* data = nullptr;
  int n = 0, k = 0;
  const float* bias = nullptr;
};

// Rows [begin, end) of a batch run with the same adapters.
struct RowGroup {
  int begin, end;
  const AdapterSet* adapters;
};

// y = W·x + b + Σ sᵢ·Bᵢ(Aᵢ·x), written to y [m, n], or added to it (the residual stream) when `accumulate`.
struct Linear {
  const Weight* weight;
  int id;  // of the adapters' weights
  float* y;
  bool accumulate;
};

// Where each row of a batch stands.
struct RowPlace {
  KvCache* kv;
  int position;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual int threads() const = 0;
  virtual size_t n_bytes() const = 0;  // of buffers that the backend keeps

  // x[i] = W[tokens[i]] + Σ s·B·A[tokens[i]]
  virtual void embed(const Weight& w, int id, const int* tokens, const std::vector<RowGroup>& groups, int m,
                     float* x) = 0;
  virtual void rms_norm(const float* x, const float* w, float eps, int m, int n, float* out) = 0;
  // Linears that share their input x [m, k] run as one region. This is the one place where W·x + Σ s·B(A·x) is made.
  virtual void linear(const std::vector<Linear>& linears, const float* x, int m,
                      const std::vector<RowGroup>& groups) = 0;
  // Per head: q and k normed (weights [head_dim], or nullptr), rotated by cos, sin [m, n_rot / 2]; k and v stored.
  virtual void rope_store(const Config& c, const KvLayout& kv, int layer, const std::vector<RowPlace>& rows, float* q,
                          float* k, const float* v, const float* q_norm, const float* k_norm, const float* cos,
                          const float* sin) = 0;
  virtual void attention(const Config& c, const KvLayout& kv, int layer, const std::vector<RowPlace>& rows,
                         const float* q, float* out) = 0;
  virtual void swiglu(float* gate, const float* up, int m, int n) = 0;  // into gate
};

// cpus: where its threads stay; none: wherever the system likes.
std::unique_ptr<Backend> make_cpu_backend(int threads, const std::vector<int>& cpus);

}  // namespace lora_edge
