// Attention on the CPU: keys and values into the cache's pages, and softmax(scale · q K^T) V out of them.
//
// The positions before a row are walked in pages with a running maximum, and in spans of kSpanPages pages whose results
// are merged in order. Pages and spans begin at fixed positions, so that the bits don't depend on the rows at hand nor
// on how the work is cut.
#pragma once

#include <algorithm>
#include <vector>

#include "backend/backend.h"
#include "backend/buffer.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"

namespace lora_edge {

constexpr int kSpanPages = 8;

class Attention {
 public:
  Attention(const Table& table, ThreadPool& pool) : table_(table), pool_(pool) {}

  // k and v [n_head_kv, head_dim] of one position.
  void store(const KvLayout& kv, int layer, const RowPlace& row, const float* k, const float* v) const;
  // q [rows, n_head, head_dim], rows ldq apart; out [rows, n_head, head_dim].
  void run(const Config& c, const KvLayout& kv, int layer, const std::vector<RowPlace>& rows, const float* q,
           size_t ldq, float* out);
  size_t n_bytes() const { return parts_.size() + scratch_.size(); }

 private:
  // Rows [begin, end) of a batch: consecutive positions of one sequence.
  struct Block {
    int begin, end;
  };
  // The rows of a block for one KV head: `heads` query heads.
  struct Job {
    const KvLayout* kv;
    const uint8_t* const* pages;
    size_t k_offset, v_offset;
    int rows, heads, d;
    int n_pos;   // that the first row sees; each row sees `step` more than the one before
    int step;    // 1, or 0 in an encoder
    int window;  // of these it sees the last `window`; 0: all
    float scale, cap;
    float* q;     // [rows, heads, d]
    float* p;     // [rows, heads, kPagePositions]
    float* page;  // [d, kPagePositions] or [kPagePositions, d] of K or V as f32
  };

  // The first position that a row sees.
  static int begin_of(const Job& job, int row) {
    return job.window > 0 ? std::max(0, job.n_pos + row * job.step - job.window) : 0;
  }
  void span(const Job& job, int first_page, float* states) const;
  const void* keys(const Job& job, const uint8_t* page, bool direct) const;
  const void* values(const Job& job, const uint8_t* page, int count, bool direct) const;
  void find_blocks(const std::vector<RowPlace>& rows, int most);

  const Table& table_;
  ThreadPool& pool_;
  std::vector<Block> blocks_;
  Buffer scratch_, parts_;
};

}  // namespace lora_edge
