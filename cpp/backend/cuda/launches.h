// Kernel launches on a stream, kept until something else is asked of it. A list of them that came before, to the last
// argument, is replayed as one graph: a decode step costs the CPU one call, whatever its adapters, whose pointers lie
// in tables on the device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/cuda/driver.h"

namespace lora_edge::cuda {

struct Grid {
  int x, y = 1, z = 1;
};

class Launches {
 public:
  Launches(const Driver& driver, Handle stream) : driver_(driver), stream_(stream) {}
  ~Launches();
  Launches(const Launches&) = delete;
  Launches& operator=(const Launches&) = delete;

  // args: plain bytes, copied. kernel: a literal, for errors.
  void add(Handle function, const char* kernel, const void* args, size_t n_bytes, Grid grid, int threads,
           size_t shared);
  // Hands the stream what was added. RuntimeError in Python where the driver refuses.
  void submit();

 private:
  struct Kept {
    std::string list;
    Handle graph;
    uint64_t used;
  };

  void launch_all(const std::string& list);
  Handle capture(const std::string& list);  // nullptr: this driver can't
  Handle find(const std::string& list);

  const Driver& driver_;
  Handle stream_;
  std::string pending_;  // headers and arguments, one launch after another
  int n_pending_ = 0;
  bool can_capture_ = true;
  uint64_t clock_ = 0;
  std::vector<Kept> kept_;
  std::vector<size_t> seen_;  // hashes of lists that came once
};

}  // namespace lora_edge::cuda
