// Compares every kernel table that this CPU runs with `ref`, bit for bit, on random input.
//   check_kernels [--seed N] [--cases N] [--only SUBSTRING] [--bench]
// Exit status 1 on any difference. LORA_EDGE_ISA=name checks that table only, and that it is the active one.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "bench_kernels.h"
#include "kernel_cases.h"
#include "kernels/kernels.h"

namespace lora_edge {
namespace {

// The count of members that differ; an error if none was compared.
int check_table(const Table& ref, const Table& t, uint64_t seed, int cases, const std::string& only) {
  int failed = 0, compared = 0;
  std::vector<Member> members;
  add_weight_members(ref, t, members);
  add_row_members(ref, t, members);
  for (const Member& member : members) {
    if (member.name.find(only) == std::string::npos) continue;
    std::printf("%-12s %-16s ", t.name, member.name.c_str());
    if (!member.own) {
      std::printf("is ref's\n");
      continue;
    }
    std::fflush(stdout);  // so that a crash says where
    std::string diff;
    for (int i = 0; i < cases && diff.empty(); ++i) {
      Random r(seed + static_cast<uint64_t>(i));
      diff = member.run(r, ref, t);
      if (!diff.empty()) diff = concat("FAILED, --seed ", seed + static_cast<uint64_t>(i), ": ", diff);
    }
    std::printf("%s\n", diff.empty() ? "ok" : diff.c_str());
    failed += !diff.empty();
    ++compared;
  }
  if (compared == 0 || cases < 1) fail_input("nothing of the table ", t.name, " was compared");
  return failed;
}

int run(int argc, char** argv) {
  uint64_t seed = std::random_device()();
  int cases = 200;
  bool bench = false;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--bench")
      bench = true;
    else if (flag == "--seed" && i + 1 < argc)
      seed = std::strtoull(argv[++i], nullptr, 10);
    else if (flag == "--cases" && i + 1 < argc)
      cases = std::atoi(argv[++i]);
    else if (flag == "--only" && i + 1 < argc)
      only = argv[++i];
    else
      fail_input("unknown option ", flag, "; known: --seed N, --cases N, --only SUBSTRING, --bench");
  }
  const Table& active = active_table();  // throws if LORA_EDGE_ISA can't be had
  const char* forced = std::getenv("LORA_EDGE_ISA");
  const bool force = forced && *forced;
  if (force && std::string(active.name) != forced)
    fail_input("LORA_EDGE_ISA=", forced, ", but the active table is ", active.name);

  int count = 0, failed = 0;
  const TableInfo* tables = all_tables(&count);
  const Table& ref = tables[0].get();
  std::printf("active table: %s; seed %llu\n", active.name, static_cast<unsigned long long>(seed));
  for (int i = 0; i < count; ++i) {
    if (force ? std::string(tables[i].name) != forced : i == 0) continue;
    if (!tables[i].runs_here) {
      std::printf("%-12s skipped: this CPU can't run it\n", tables[i].name);
      continue;
    }
    const Table& t = tables[i].get();
    if (std::string(t.name) != tables[i].name) fail_input("the table ", tables[i].name, " calls itself ", t.name);
    if (bench)
      bench_table(t);
    else if (i == 0)
      std::printf("ref is the specification: nothing to compare it with\n");
    else
      failed += check_table(ref, t, seed, cases, only);
  }
  if (failed) std::printf("%d members differ from ref\n", failed);
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace lora_edge

int main(int argc, char** argv) {
  try {
    return lora_edge::run(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "check_kernels: %s\n", e.what());
    return 1;
  }
}
