// Kernels are compiled with -fsanitize=alignment,bounds: a device refuses addresses that aren't a multiple of what is
// read there, and arrays in shared memory lie side by side. What the compiler's checks find ends the launch.
#include <cstdint>

#include "block.h"

namespace lora_edge::standin {
namespace {

// What the compilers pass, of UBSan's interface.
struct Location {
  const char* file;
  uint32_t line, column;
};
struct TypeMismatch {
  Location where;
  const void* type;
  unsigned char log_alignment, kind;
};
struct OutOfBounds {
  Location where;
  const void *array, *index;
};

[[noreturn]] void mismatch(const TypeMismatch* what, uintptr_t address) {
  fail_thread(CUDA_ERROR_MISALIGNED_ADDRESS,
              concat(what->where.file, ":", what->where.line, ": address 0x", std::hex, address, std::dec,
                     " isn't a multiple of ", 1u << what->log_alignment));
}

[[noreturn]] void out_of_bounds(const OutOfBounds* what, uintptr_t index) {
  fail_thread(CUDA_ERROR_ILLEGAL_ADDRESS, concat(what->where.file, ":", what->where.line, ": index ",
                                                 static_cast<int>(index), " is outside of its array"));
}

}  // namespace

#define HANDLER extern "C" __attribute__((visibility("hidden"))) void
HANDLER __ubsan_handle_type_mismatch_v1(TypeMismatch* what, uintptr_t p) { mismatch(what, p); }
HANDLER __ubsan_handle_type_mismatch_v1_abort(TypeMismatch* what, uintptr_t p) { mismatch(what, p); }
HANDLER __ubsan_handle_out_of_bounds(OutOfBounds* what, uintptr_t i) { out_of_bounds(what, i); }
HANDLER __ubsan_handle_out_of_bounds_abort(OutOfBounds* what, uintptr_t i) { out_of_bounds(what, i); }

}  // namespace lora_edge::standin
