#include "registry.h"

#include <cstdio>
#include <cstdlib>

#include "thread.h"

namespace lora_edge::standin {

// Never destroyed: they are written at exit.
Kernels& kernels() {
  static Kernels* all = new Kernels;
  return *all;
}

std::map<std::string, uint64_t>& calls() {
  static auto* all = new std::map<std::string, uint64_t>;
  return *all;
}

uint64_t& copied_out() {
  static uint64_t bytes = 0;
  return bytes;
}

Registration::Registration(const char* name, size_t args_bytes, int most_threads, void (*run)(const void* args)) {
  if (!kernels().emplace(name, Kernel{name, args_bytes, most_threads, run}).second) {
    std::fprintf(stderr, "the stand-in for libcuda holds two kernels named %s\n", name);
    std::abort();
  }
}

extern "C" int lora_edge_standin_write_counts(const char* path) {
  std::FILE* file = std::fopen(path, "a");
  if (!file) return -1;
  for (const auto& [name, k] : kernels()) {
    if (k.launches + k.replays)
      std::fprintf(file, "kernel %s launches %llu replays %llu barriers %llu warp_barriers %llu\n", name.c_str(),
                   static_cast<unsigned long long>(k.launches), static_cast<unsigned long long>(k.replays),
                   static_cast<unsigned long long>(k.barriers), static_cast<unsigned long long>(k.warp_barriers));
  }
  for (const auto& [name, count] : calls())
    std::fprintf(file, "call %s %llu\n", name.c_str(), static_cast<unsigned long long>(count));
  std::fprintf(file, "copied out %llu\n", static_cast<unsigned long long>(copied_out()));
  return std::fclose(file) ? -1 : 0;
}

__attribute__((destructor)) static void write_at_exit() {
  const char* path = std::getenv("LORA_EDGE_STANDIN_COUNT");
  if (path && *path) lora_edge_standin_write_counts(path);
}

}  // namespace lora_edge::standin
