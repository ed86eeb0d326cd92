// Streams, and the graphs that are captured from them. A stream's work is done when it is submitted, in order.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "cuda_types.h"

namespace lora_edge::standin {

// A launch, copy or fill with all it needs; whether it is replayed as part of a graph.
using Work = std::function<void(bool replayed)>;

struct Graph {
  int device;
  std::vector<Work> nodes;
};

struct Stream {
  int device;
  bool capturing = false, invalid = false;  // invalid: something that can't be captured was called
  CaptureMode mode = kCaptureGlobal;
  std::thread::id by;  // who began the capture
  std::vector<Work> captured;
};

struct Event {
  int device;
  bool recorded = false, captured = false;
  double ms = 0;
};

}  // namespace lora_edge::standin
