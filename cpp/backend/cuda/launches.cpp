#include "backend/cuda/launches.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "base/error.h"

namespace lora_edge::cuda {
namespace {

constexpr int kFewest = 8;         // launches that are worth a graph
constexpr size_t kMostKept = 32;   // graphs; some hundred KB each
constexpr size_t kMostSeen = 256;  // lists
constexpr int kThreadLocal = 1;    // CU_STREAM_CAPTURE_MODE: other threads may go on with theirs

struct Header {
  Handle function;
  const char* kernel;
  size_t shared, n_bytes;
  Grid grid;
  int threads;
};

}  // namespace

Launches::~Launches() {
  for (const Kept& kept : kept_) driver_.graph_exec_destroy(kept.graph);
}

void Launches::add(Handle function, const char* kernel, const void* args, size_t n_bytes, Grid grid, int threads,
                   size_t shared) {
  const Header header{function, kernel, shared, n_bytes, grid, threads};
  pending_.append(reinterpret_cast<const char*>(&header), sizeof(header));
  pending_.append(static_cast<const char*>(args), n_bytes);
  ++n_pending_;
}

void Launches::submit() {
  if (n_pending_ == 0) return;
  const bool worth = n_pending_ >= kFewest;
  std::string list;
  list.swap(pending_);
  n_pending_ = 0;
  const Handle graph = worth ? find(list) : nullptr;
  if (graph) {
    driver_.check(driver_.graph_launch(graph, stream_), "cuGraphLaunch");
  } else {
    launch_all(list);
  }
  list.clear();
  pending_.swap(list);  // its memory
}

void Launches::launch_all(const std::string& list) {
  for (size_t at = 0; at < list.size();) {
    Header header;
    std::memcpy(&header, &list[at], sizeof(header));
    alignas(16) unsigned char args[4096];  // the most that a kernel takes
    if (header.n_bytes > sizeof(args)) throw std::logic_error("a kernel's arguments are too long");
    std::memcpy(args, &list[at + sizeof(header)], header.n_bytes);
    void* parameters[] = {args};
    driver_.check(
        driver_.launch(header.function, unsigned(header.grid.x), unsigned(header.grid.y), unsigned(header.grid.z),
                       unsigned(header.threads), 1, 1, unsigned(header.shared), stream_, parameters, nullptr),
        concat("launching ", header.kernel).c_str());
    at += sizeof(header) + header.n_bytes;
  }
}

Handle Launches::find(const std::string& list) {
  if (!can_capture_ || !driver_.can_capture()) return nullptr;
  for (Kept& kept : kept_)
    if (kept.list == list) {
      kept.used = ++clock_;
      return kept.graph;
    }
  const size_t hash = std::hash<std::string>()(list);
  const auto before = std::find(seen_.begin(), seen_.end(), hash);
  if (before == seen_.end()) {
    if (seen_.size() == kMostSeen) seen_.erase(seen_.begin());
    seen_.push_back(hash);
    return nullptr;
  }
  const Handle graph = capture(list);
  if (!graph) {
    can_capture_ = false;
    return nullptr;
  }
  if (kept_.size() == kMostKept) {
    const auto older = [](const Kept& a, const Kept& b) { return a.used < b.used; };
    const auto oldest = std::min_element(kept_.begin(), kept_.end(), older);
    driver_.graph_exec_destroy(oldest->graph);
    kept_.erase(oldest);
  }
  kept_.push_back({list, graph, ++clock_});
  return graph;
}

Handle Launches::capture(const std::string& list) {
  if (driver_.capture_begin(stream_, kThreadLocal) != 0) return nullptr;
  Handle graph = nullptr, made = nullptr;
  bool whole = true;
  try {
    launch_all(list);
  } catch (const std::exception&) {  // shows itself again without a graph
    whole = false;
  }
  whole &= driver_.capture_end(stream_, &graph) == 0;
  if (whole && driver_.instantiate(&made, graph) != 0) made = nullptr;
  if (graph) driver_.graph_destroy(graph);
  return made;
}

}  // namespace lora_edge::cuda
