// The coarse operations that a transformer is made of. Activations are row-major [m, width] floats in the backend's
// memory, which only it reads and writes; so are rotations and the pages of keys and values. Weights are the file's.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "backend/likeliest.h"
#include "backend/memory.h"
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

// Rows [begin, end) of a batch run with the same adapters: those that start at `position`, the first row's, or before.
struct RowGroup {
  int begin, end;
  const AdapterSet* adapters;
  int position;
};

// y = W·x + b + Σ sᵢ·Bᵢ(Aᵢ·x), written to y [m, n], or added to it (the residual stream), times `scale`, when
// `accumulate`.
struct Linear {
  const Weight* weight;
  int id;  // of the adapters' weights
  float* y;
  bool accumulate;
  float scale = 1.0f;
};

// dY [m, n] of a linear, the gradient of its output.
struct OutputGradient {
  const Weight* weight;
  const float* dy;
};

// A norm's weight and, or nullptr, bias.
struct NormWeight {
  const float *w = nullptr, *b = nullptr;
};

// Queries, keys and values of a batch: rows of heads, ldq or ldkv floats apart.
struct QkvRows {
  float *q, *k;
  const float* v;
  size_t ldq, ldkv;
};

// cos and sin [m, n_rot / 2]; nullptr where a layer doesn't rotate.
struct Rotation {
  const float *cos, *sin;
};

// Where each row of a batch stands, and how many positions it sees: those up to itself, or a whole text.
struct RowPlace {
  KvCache* kv;
  int position, seen;
};

// Sees the input x [m, k] of linears that share it, before they are made.
using Observer = std::function<void(const std::vector<Linear>& linears, const float* x, int m)>;

class Backend : public Memory {
 public:
  void observe(Observer observer) { observer_ = std::move(observer); }  // none: nobody looks
  virtual int threads() const = 0;
  virtual size_t n_bytes() const = 0;  // of buffers that the backend keeps

  // Takes a weight of the file, so that the first pass needn't.
  virtual void keep(const Weight& w) = 0;
  // A pass over these rows begins: what follows is of them, until the next one.
  virtual void begin(const Config& c, const std::vector<RowPlace>& places, const std::vector<RowGroup>& groups) = 0;

  // x[i] = W[tokens[i]] + Σ s·B·A[tokens[i]]
  virtual void embed(const Weight& w, int id, const int* tokens, const std::vector<RowGroup>& groups, int m,
                     float* x) = 0;
  virtual void add_rows(const Weight& w, const std::vector<int>& rows, float* x) = 0;  // x[i] += W[rows[i]]
  virtual void norm(const Config& c, const float* x, const NormWeight& w, int m, int n, float* out) = 0;
  virtual void norm_add(const Config& c, float* y, const NormWeight& w, int m, int n, float* x) = 0;  // x += norm(y)
  // The weight that the linear after the next one reads first: what has nothing to do meanwhile may fetch it.
  virtual void expect(const Weight& w) = 0;
  // Linears that share their input x [m, k] run as one region. This is the one place where W·x + Σ s·B(A·x) is made.
  virtual void linear(const std::vector<Linear>& linears, const float* x, int m,
                      const std::vector<RowGroup>& groups) = 0;
  // dx [m, k] = Σ dYᵢ·Wᵢ of linears that share their input, in their order: see input_gradient.h.
  virtual void input_gradient(const std::vector<OutputGradient>& outputs, int m, float* dx) = 0;
  // q and k normed as the configuration says (weights of q and k), rotated; k and v stored.
  virtual void rope_store(const Config& c, const KvLayout& kv, int layer, const std::vector<RowPlace>& rows,
                          const QkvRows& qkv, const float* q_norm, const float* k_norm, const Rotation& rotation) = 0;
  // out [m, n_head, head_dim]
  virtual void attention(const Config& c, const KvLayout& kv, int layer, const std::vector<RowPlace>& rows,
                         const float* q, size_t ldq, float* out) = 0;
  // out [m, n] = act(gate) · up, or act(gate) where up is nullptr; rows of gate and up are ld apart. out may be gate.
  virtual void activate(const Config& c, const float* gate, const float* up, size_t ld, int m, int n, float* out) = 0;
  // out[i] = x[rows[i]] for rows of n floats in ascending order; out may be x.
  virtual void take_rows(const float* x, const std::vector<int>& rows, int n, float* out) = 0;
  virtual void scale(float* x, float by, int m, int n) = 0;
  virtual void soft_cap(float* x, float cap, int m, int n) = 0;
  // Of each row of logits [m, n]; none where the program reads these as fast.
  virtual std::vector<Likeliest> likeliest(const float* logits, int m, int n) = 0;

 protected:
  Observer observer_;
};

// cpus: where its threads stay; none: wherever the system likes.
std::unique_ptr<Backend> make_cpu_backend(int threads, const std::vector<int>& cpus);

// index: of the GPU. RuntimeError in Python where it can't be had.
std::unique_ptr<Backend> make_cuda_backend(int index);

}  // namespace lora_edge
