#include "machine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace lora_edge::standin {
namespace {

std::string environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? value : otherwise;
}

uint64_t number(const std::string& name, const std::string& text) {
  char* end = nullptr;
  const uint64_t n = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || *end) fail(CUDA_ERROR_UNKNOWN, name, ": '", text, "' is not a number");
  return n;
}

}  // namespace

Machine Machine::from_environment() {
  Machine m;
  const auto read = [](const char* name, const char* otherwise) { return number(name, environment(name, otherwise)); };
  m.sm_ = static_cast<int>(read("LORA_EDGE_STANDIN_SM", "87"));
  m.driver_ = static_cast<int>(read("LORA_EDGE_STANDIN_DRIVER", "12060"));
  m.devices_ = static_cast<int>(read("LORA_EDGE_STANDIN_DEVICES", "1"));
  m.memory_ = read("LORA_EDGE_STANDIN_MEMORY", "8589934592");
  std::istringstream faults(environment("LORA_EDGE_STANDIN_FAIL", ""));
  for (std::string fault; std::getline(faults, fault, ',');) {
    const size_t colon = fault.find(':');
    const std::string kind = fault.substr(0, colon);
    if (kind != "init" && kind != "launch" && kind != "alloc")
      fail(CUDA_ERROR_UNKNOWN, "LORA_EDGE_STANDIN_FAIL: '", fault, "'; known: init, launch, launch:N, alloc, alloc:N");
    const uint64_t call = colon == std::string::npos ? 0 : number("LORA_EDGE_STANDIN_FAIL", fault.substr(colon + 1));
    m.faults_[kind] = {call, 0};
  }
  return m;
}

// 8.0 knows 5.0, 9.0 6.0, 10.0 6.3, 11.0 7.0, 12.0 8.0; since 12.6 PTX is one behind, and 13.0 knows 9.0.
int Machine::ptx() const {
  const int major = driver_ / 1000, minor = driver_ % 1000 / 10;
  if (major <= 9) return 10 * (major - 3) + minor;
  if (major == 10) return 63 + minor;
  if (major == 11) return 70 + minor;
  if (major == 12) return 80 + (minor >= 6 ? minor - 1 : minor);
  return 10 * (major - 4) + minor;
}

int Machine::shared_optin() const {
  if (sm_ < 70) return kSharedBytes;
  return sm_ == 75 ? 64 << 10 : 96 << 10;
}

std::string Machine::name() const { return concat("Stand-in sm_", sm_); }

int Machine::attribute(int which) const {
  // Jetson Nano, TX2, Xavier, Orin and Thor share their memory with the CPU; Thor reads pageable memory too.
  const bool integrated = sm_ == 53 || sm_ == 62 || sm_ == 72 || sm_ == 87 || sm_ == 110;
  switch (which) {
    case kMaxThreadsPerBlock: return 1024;
    case kMaxSharedMemoryPerBlock: return kSharedBytes;
    case kWarpSize: return 32;
    case kClockRate: return 1000000;
    case kMultiprocessorCount: return 4;
    case kIntegrated: return integrated;
    case kCanMapHostMemory: return 1;
    case kMemoryClockRate: return 3200000;
    case kGlobalMemoryBusWidth: return 128;
    case kL2CacheSize: return 4 << 20;
    case kUnifiedAddressing: return 1;
    case kComputeCapabilityMajor: return sm_ / 10;
    case kComputeCapabilityMinor: return sm_ % 10;
    case kPageableMemoryAccess: return sm_ == 110;
    case kMaxSharedMemoryPerBlockOptin: return shared_optin();
    default: fail(CUDA_ERROR_INVALID_VALUE, "the stand-in has no device attribute ", which);
  }
}

bool Machine::fails(const std::string& kind) {
  const auto fault = faults_.find(kind);
  if (fault == faults_.end()) return false;
  ++fault->second.seen;
  return fault->second.call == 0 || fault->second.call == fault->second.seen;
}

void log_failure(const std::string& line) {
  const std::string path = environment("LORA_EDGE_STANDIN_LOG", "");
  std::FILE* file = path.empty() ? nullptr : std::fopen(path.c_str(), "a");
  if (!file) return;
  std::fprintf(file, "%s\n", line.c_str());
  std::fclose(file);
}

}  // namespace lora_edge::standin
