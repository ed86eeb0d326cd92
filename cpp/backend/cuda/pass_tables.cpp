#include "backend/cuda/pass_tables.h"

#include <algorithm>

#include "backend/low_rank.h"
#include "kernels/kernels.h"

namespace lora_edge::cuda {
namespace {

constexpr int kQueries = 16;  // that a block of threads takes through the context together
constexpr int kSpan = 512;    // positions

}  // namespace

void PassTables::begin(const Config& c, const std::vector<RowPlace>& places, const std::vector<RowGroup>& groups) {
  // Places, then the page pointers of each sequence, which they point to. What grows comes last: addresses that
  // launches have as arguments stay.
  const size_t m = places.size();
  std::vector<const void*> pages;
  std::vector<size_t> first(m);
  int most_seen = 0;
  for (size_t i = 0; i < m; ++i) {
    most_seen = std::max(most_seen, places[i].seen);
    if (i > 0 && places[i].kv == places[i - 1].kv) {
      first[i] = first[i - 1];
      continue;
    }
    first[i] = pages.size();
    size_t last = i;
    while (last + 1 < m && places[last + 1].kv == places[i].kv) ++last;
    const size_t n = size_t(places[last].seen + kPagePositions - 1) / kPagePositions;
    for (size_t p = 0; p < n; ++p) pages.push_back(places[i].kv->pages()[p]);
  }
  const size_t place_bytes = m * sizeof(Place);
  uint8_t* memory = places_memory_.get<uint8_t>(place_bytes + pages.size() * sizeof(void*));
  auto* const* to_pages = reinterpret_cast<unsigned char* const*>(memory + place_bytes);
  std::vector<Place> table(m);
  for (size_t i = 0; i < m; ++i) table[i] = {to_pages + first[i], places[i].position, places[i].seen};
  context_->copy_in(memory, table.data(), place_bytes);
  context_->copy_in(memory + place_bytes, pages.data(), pages.size() * sizeof(void*));
  places_ = reinterpret_cast<const Place*>(memory);

  const int group = c.n_head / c.n_head_kv, most_rows = std::max(1, kQueries / group);
  std::vector<RowBlock> blocks;
  for (int i = 0; i < int(m); ++i) {
    if (!blocks.empty()) {
      RowBlock& last = blocks.back();
      const RowPlace& before = places[size_t(i) - 1];
      if (before.kv == places[size_t(i)].kv && i - last.begin < most_rows) {
        last.end = i + 1;
        continue;
      }
    }
    blocks.push_back({i, i + 1});
  }
  RowBlock* to = blocks_memory_.get<RowBlock>(blocks.size());
  context_->copy_in(to, blocks.data(), blocks.size() * sizeof(RowBlock));
  blocks_ = to;
  n_blocks_ = int(blocks.size());
  most_queries_ = 0;
  for (const RowBlock& b : blocks) most_queries_ = std::max(most_queries_, (b.end - b.begin) * group);
  n_spans_ = (most_seen + kSpan - 1) / kSpan;

  groups_ = groups;
  all_ = make_parts(c, groups, 0, linear_count(c), parts_memory_);
}

PartTable PassTables::parts(const Config& c, const std::vector<RowGroup>& groups, int id) {
  const auto same = [](const RowGroup& a, const RowGroup& b) {
    return a.begin == b.begin && a.end == b.end && a.adapters == b.adapters && a.position == b.position;
  };
  const bool all = std::equal(groups.begin(), groups.end(), groups_.begin(), groups_.end(), same);
  return all ? all_ : make_parts(c, groups, id, 1, some_memory_);
}

const AdapterCopy& PassTables::copy_of(Adapter& adapter, int n_ids) {
  std::shared_ptr<const void>& copy = adapter.copy();
  if (!copy) copy = std::make_shared<const AdapterCopy>(context_, adapter, n_ids);
  return *static_cast<const AdapterCopy*>(copy.get());
}

const float* PassTables::scales_of(const ActiveAdapter& active, int id) {
  const float* scales = row_scales(active, id);
  if (!scales) return nullptr;
  for (auto at = scales_.begin(); at != scales_.end();)
    at = at->second.owner.expired() ? scales_.erase(at) : std::next(at);
  Scales& kept = scales_[active.scales.get()];
  kept.owner = active.scales;
  std::unique_ptr<DeviceMemory>& memory = kept.by_id[id];
  if (!memory) {
    const size_t n_bytes = (*active.scales)[size_t(id)].size() * sizeof(float);
    memory = std::make_unique<DeviceMemory>(context_, n_bytes);
    context_->copy_in(memory->data(), scales, n_bytes);
  }
  return static_cast<const float*>(memory->data());
}

PartTable PassTables::make_parts(const Config& c, const std::vector<RowGroup>& groups, int first_id, int n_ids,
                                 DeviceBuffer& memory) {
  PartTable table;
  table.m = groups.empty() ? 0 : groups.back().end;
  table.first_id = first_id;
  std::vector<Part> parts;
  std::vector<PartRange> ranges(size_t(n_ids) * size_t(table.m));
  for (int id = first_id; id < first_id + n_ids; ++id)
    for (const RowGroup& group : groups) {
      PartRange range{int(parts.size()), 0};
      int u0 = 0;
      for (const ActiveAdapter& active : *group.adapters) {
        const LoraWeight& weight = active.adapter->at(id);
        if (!works(active, weight, group)) continue;
        Part part = copy_of(*active.adapter, linear_count(c)).at(id);
        part.scale = weight.scale * active.weight;
        part.row_scales = scales_of(active, id);
        part.u0 = u0;
        u0 += part.r;
        parts.push_back(part);
        ++range.count;
      }
      table.ldu = std::max(table.ldu, u0);
      for (int i = group.begin; i < group.end; ++i) ranges[size_t(id - first_id) * size_t(table.m) + size_t(i)] = range;
    }
  if (parts.empty()) return table;
  const size_t range_bytes = ranges.size() * sizeof(PartRange);
  uint8_t* to = memory.get<uint8_t>(range_bytes + parts.size() * sizeof(Part));
  context_->copy_in(to, ranges.data(), range_bytes);
  context_->copy_in(to + range_bytes, parts.data(), parts.size() * sizeof(Part));
  table.ranges = reinterpret_cast<const PartRange*>(to);
  table.parts = reinterpret_cast<const Part*>(to + range_bytes);
  return table;
}

}  // namespace lora_edge::cuda
