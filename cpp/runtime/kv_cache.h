// Keys and values of a sequence in reference-counted pages: a fork shares them and copies a page when it writes to it.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "backend/memory.h"
#include "formats/blocks.h"
#include "runtime/config.h"

namespace lora_edge {

// A page holds kPagePositions positions of all layers and KV heads: [layer][kv head][K or V]. K lies transposed, so
// that the scores of neighbouring positions are neighbours: [head_dim][position]; V [position][head_dim]. As Q8_0,
// blocks of 32 of a position's numbers share a scale: K is bytes [head_dim][position], then scales [head_dim /
// 32][position]; V is blocks as in a file.
struct KvLayout {
  KvLayout(const Config& c, DType type);
  DType type;  // f32, f16 or q8_0
  int n_head_kv, head_dim;
  size_t page_bytes;

  size_t offset(int layer, int head, bool value) const;  // bytes
};

class KvPage {
 public:
  KvPage(Memory& memory, size_t n_bytes, std::shared_ptr<std::atomic<size_t>> total);
  KvPage(const KvPage& other);
  ~KvPage();
  KvPage& operator=(const KvPage&) = delete;
  uint8_t* data() const { return data_; }

 private:
  Memory& memory_;
  uint8_t* data_;
  size_t n_bytes_;
  std::shared_ptr<std::atomic<size_t>> total_;  // bytes of all live pages of a model
};

class KvCache {
 public:
  KvCache(Memory& memory, const KvLayout& layout, std::shared_ptr<std::atomic<size_t>> total)
      : memory_(&memory), layout_(&layout), total_(std::move(total)) {}

  int length() const { return length_; }
  // Makes [length, length + n) writable: new pages, and copies of those that a fork shares.
  void reserve(int n);
  void advance(int n) { length_ += n; }
  void truncate(int n);  // keeps the first n positions, n <= length
  const uint8_t* const* pages() const { return raw_.data(); }
  uint8_t* page(int position) const;

 private:
  Memory* memory_;
  const KvLayout* layout_;
  std::shared_ptr<std::atomic<size_t>> total_;
  std::vector<std::shared_ptr<KvPage>> pages_;
  std::vector<const uint8_t*> raw_;
  int length_ = 0;
};

}  // namespace lora_edge
