// Chooses a kernel table for this CPU. A table is a copy of the one below it, overwritten by its install().
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include "kernels/x86/cpu.h"
#endif

namespace lora_edge {
namespace {

const Table& ref_table() {
  static const Table table = [] {
    Table t{};
    ref::install(t);
    return t;
  }();
  return table;
}

#if defined(__x86_64__) && defined(LORA_EDGE_HAVE_AVX2)
const Table& avx2_table() {
  static const Table table = [] {
    Table t = ref_table();
    avx2::install(t);
    return t;
  }();
  return table;
}
#if defined(LORA_EDGE_HAVE_AVX_VNNI)
const Table& avx_vnni_table() {
  static const Table table = [] {
    Table t = avx2_table();
    avx_vnni::install(t);
    return t;
  }();
  return table;
}
bool has_avx_vnni() {
#if defined(LORA_EDGE_EMULATE_VNNI)
  return x86::has_avx2();
#else
  return x86::has_avx_vnni();
#endif
}
#endif

#if defined(LORA_EDGE_HAVE_AVX512_VNNI)
const Table& avx512_vnni_table() {
  static const Table table = [] {
    Table t = avx2_table();
    avx512_vnni::install(t);
    return t;
  }();
  return table;
}
bool has_avx512_vnni() {
#if defined(LORA_EDGE_EMULATE_VNNI)
  return x86::has_avx2();
#else
  return x86::has_avx512_vnni();
#endif
}
#endif
#endif

#if defined(__aarch64__)
const Table& neon_table() {
  static const Table table = [] {
    Table t = ref_table();
    neon::install(t);
    return t;
  }();
  return table;
}

#if defined(LORA_EDGE_HAVE_NEON_DOTPROD)
const Table& neon_dotprod_table() {
  static const Table table = [] {
    Table t = neon_table();
    neon_dotprod::install(t);
    return t;
  }();
  return table;
}
bool has_dotprod() { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }

#if defined(LORA_EDGE_HAVE_NEON_I8MM)
const Table& neon_i8mm_table() {
  static const Table table = [] {
    Table t = neon_dotprod_table();
    neon_i8mm::install(t);
    return t;
  }();
  return table;
}
bool has_i8mm() {
  constexpr unsigned long kI8mm = 1ul << 13;  // HWCAP2_I8MM, which headers before Linux 5.10 lack
  return has_dotprod() && (getauxval(AT_HWCAP2) & kI8mm) != 0;
}
#endif
#endif
#endif

const Table& choose_table() {
  int count = 0;
  const TableInfo* tables = all_tables(&count);
  const char* forced = std::getenv("LORA_EDGE_ISA");
  if (!forced || !*forced) {
    int best = 0;
    for (int i = 0; i < count; ++i)
      if (tables[i].runs_here) best = i;
    return tables[best].get();
  }
  std::string known;
  for (int i = 0; i < count; ++i) {
    if (!tables[i].runs_here) continue;
    if (std::string(forced) == tables[i].name) return tables[i].get();
    known += concat(known.empty() ? "" : ", ", tables[i].name);
  }
  fail_input("LORA_EDGE_ISA=", forced, " can't run here; those that can: ", known);
}

}  // namespace

const TableInfo* all_tables(int* count) {
  static const TableInfo tables[] = {
      {"ref", true, ref_table},
#if defined(__x86_64__) && defined(LORA_EDGE_HAVE_AVX2)
      {"avx2", x86::has_avx2(), avx2_table},
#if defined(LORA_EDGE_HAVE_AVX_VNNI)
      {"avx_vnni", has_avx_vnni(), avx_vnni_table},
#endif
#if defined(LORA_EDGE_HAVE_AVX512_VNNI)
      {"avx512_vnni", has_avx512_vnni(), avx512_vnni_table},
#endif
#endif
#if defined(__aarch64__)
      {"neon", true, neon_table},  // Advanced SIMD is part of the aarch64 baseline
#if defined(LORA_EDGE_HAVE_NEON_DOTPROD)
      {"neon_dotprod", has_dotprod(), neon_dotprod_table},
#if defined(LORA_EDGE_HAVE_NEON_I8MM)
      {"neon_i8mm", has_i8mm(), neon_i8mm_table},
#endif
#endif
#endif
  };
  *count = static_cast<int>(sizeof(tables) / sizeof(tables[0]));
  return tables;
}

const Table& active_table() {
  static const Table& table = choose_table();
  return table;
}

}  // namespace lora_edge
