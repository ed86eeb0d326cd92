// The machine that is simulated, by environment variables that are read at cuInit and cuDriverGetVersion:
//   LORA_EDGE_STANDIN_SM       compute capability, e.g. 53, 75, 87 (the default)
//   LORA_EDGE_STANDIN_DRIVER   CUDA version of the driver, e.g. 10020, 11040, 12060 (the default)
//   LORA_EDGE_STANDIN_DEVICES  how many there are; 1
//   LORA_EDGE_STANDIN_MEMORY   bytes of a device; 8 GiB
//   LORA_EDGE_STANDIN_FAIL     what goes wrong, with commas between: init; launch and alloc, or launch:N and alloc:N:
//                              every kernel that is to run and every device allocation, or the N-th
//   LORA_EDGE_STANDIN_LOG      a file to which each failure is appended, as a line that names the function
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "failure.h"

namespace lora_edge::standin {

class Machine {
 public:
  // Throws Failure for what can't be read.
  static Machine from_environment();

  int sm() const { return sm_; }
  int driver() const { return driver_; }
  int devices() const { return devices_; }
  size_t memory() const { return memory_; }
  // Of the newest PTX that the driver takes, times ten.
  int ptx() const;
  // Bytes of shared memory that a block may have if its function asks for it.
  int shared_optin() const;
  std::string name() const;
  // A CUdevice_attribute of each device; Failure for one that isn't simulated.
  int attribute(int which) const;
  // Counts a call of a kind, and says whether it is one that fails.
  bool fails(const std::string& kind);

 private:
  int sm_ = 87, driver_ = 12060, devices_ = 1;
  size_t memory_ = size_t{8} << 30;
  struct Fault {
    uint64_t call;  // from 1; 0: all of them
    uint64_t seen;
  };
  std::map<std::string, Fault> faults_;
};

constexpr int kSharedBytes = 48 << 10;  // of a block, where its function asks for nothing

// Appends to LORA_EDGE_STANDIN_LOG, if set.
void log_failure(const std::string& line);

}  // namespace lora_edge::standin
