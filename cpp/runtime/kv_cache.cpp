#include "runtime/kv_cache.h"

#include "kernels/kernels.h"

namespace lora_edge {

KvLayout::KvLayout(const Config& c, DType kv_type) : type(kv_type), n_head_kv(c.n_head_kv), head_dim(c.head_dim) {
  page_bytes = offset(c.n_layer, 0, false);
}

size_t KvLayout::offset(int layer, int head, bool value) const {
  const size_t block = kPagePositions * row_bytes(type, static_cast<size_t>(head_dim));
  const size_t index = (static_cast<size_t>(layer) * static_cast<size_t>(n_head_kv) + static_cast<size_t>(head)) * 2;
  return (index + (value ? 1 : 0)) * block;
}

// Its zeros count: positions not yet stored are read, though nothing is made of them.
KvPage::KvPage(Memory& memory, size_t n_bytes, std::shared_ptr<std::atomic<size_t>> total)
    : memory_(memory),
      data_(static_cast<uint8_t*>(memory.allocate(n_bytes))),
      n_bytes_(n_bytes),
      total_(std::move(total)) {
  total_->fetch_add(n_bytes_);
}

KvPage::KvPage(const KvPage& other) : KvPage(other.memory_, other.n_bytes_, other.total_) {
  memory_.copy(data_, other.data_, n_bytes_);
}

KvPage::~KvPage() {
  memory_.release(data_);
  total_->fetch_sub(n_bytes_);
}

void KvCache::reserve(int n) {
  const size_t needed = (static_cast<size_t>(length_) + static_cast<size_t>(n) + kPagePositions - 1) / kPagePositions;
  const size_t first = static_cast<size_t>(length_) / kPagePositions;
  pages_.reserve(needed);
  raw_.reserve(needed);
  for (size_t p = first; p < needed; ++p) {
    if (p == pages_.size()) {
      pages_.push_back(std::make_shared<KvPage>(*memory_, layout_->page_bytes, total_));
      raw_.push_back(pages_.back()->data());
    } else if (pages_[p].use_count() > 1) {
      pages_[p] = std::make_shared<KvPage>(*pages_[p]);
      raw_[p] = pages_[p]->data();
    }
  }
}

void KvCache::truncate(int n) {
  length_ = n;
  const size_t keep = (static_cast<size_t>(n) + kPagePositions - 1) / kPagePositions;
  if (keep < pages_.size()) {
    pages_.resize(keep);
    raw_.resize(keep);
  }
}

uint8_t* KvCache::page(int position) const { return pages_[static_cast<size_t>(position / kPagePositions)]->data(); }

}  // namespace lora_edge
