// The switch between stacks is a few instructions: the registers that a callee keeps, and the stack pointer. Where this
// file has none for a CPU, ucontext does it, with two system calls per switch.
#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <new>

#if !defined(__x86_64__) && !defined(__aarch64__)
#define LORA_EDGE_STANDIN_UCONTEXT
#endif
#ifdef LORA_EDGE_STANDIN_UCONTEXT
#include <ucontext.h>
#endif

namespace lora_edge::standin {
namespace {

constexpr size_t kStackBytes = 64 << 10;
uint8_t* stacks[kMostFibers];

// Where fiber i's stack ends. Stacks end at different places of a page: the same place in all of them would be one set
// of the cache.
uint8_t* stack_top(int i) {
  if (!stacks[i]) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* map = mmap(nullptr, page + kStackBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) throw std::bad_alloc();
    stacks[i] = static_cast<uint8_t*>(map) + page;
    if (mprotect(stacks[i], kStackBytes, PROT_READ | PROT_WRITE)) throw std::bad_alloc();
  }
  return stacks[i] + kStackBytes - static_cast<size_t>(i) * 320 % 4096;
}

}  // namespace

#ifdef LORA_EDGE_STANDIN_UCONTEXT

static ucontext_t fibers[kMostFibers], scheduler;

void fiber_start(int i, void (*main)()) {
  uint8_t* top = stack_top(i);
  getcontext(&fibers[i]);
  fibers[i].uc_stack.ss_sp = stacks[i];
  fibers[i].uc_stack.ss_size = static_cast<size_t>(top - stacks[i]);
  fibers[i].uc_link = nullptr;
  makecontext(&fibers[i], main, 0);
}

void fiber_resume(int i) { swapcontext(&scheduler, &fibers[i]); }
void fiber_pause(int i) { swapcontext(&fibers[i], &scheduler); }

#else

// Saves the registers on the stack and the stack pointer in *from, and takes up what was so left at `to`.
extern "C" __attribute__((visibility("hidden"))) void lora_edge_standin_switch(void** from, void* to);

#if defined(__x86_64__)
asm(R"(
.text
.globl lora_edge_standin_switch
.hidden lora_edge_standin_switch
.type lora_edge_standin_switch, @function
lora_edge_standin_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx
.size lora_edge_standin_switch, . - lora_edge_standin_switch
)");
constexpr size_t kFrameWords = 8;  // six registers, where to return to, and a return address of none for `main`
constexpr size_t kReturn = 6;
#else
asm(R"(
.text
.globl lora_edge_standin_switch
.hidden lora_edge_standin_switch
.type lora_edge_standin_switch, %function
lora_edge_standin_switch:
  sub sp, sp, #160
  stp x29, x30, [sp]
  stp x19, x20, [sp, #16]
  stp x21, x22, [sp, #32]
  stp x23, x24, [sp, #48]
  stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x29, x30, [sp]
  ldp x19, x20, [sp, #16]
  ldp x21, x22, [sp, #32]
  ldp x23, x24, [sp, #48]
  ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size lora_edge_standin_switch, . - lora_edge_standin_switch
)");
constexpr size_t kFrameWords = 20;
constexpr size_t kReturn = 1;
#endif

static void* fibers[kMostFibers];
static void* scheduler;

void fiber_start(int i, void (*main)()) {
  void** frame = reinterpret_cast<void**>(stack_top(i)) - kFrameWords;
  std::memset(frame, 0, kFrameWords * sizeof(void*));
  frame[kReturn] = reinterpret_cast<void*>(main);
  fibers[i] = frame;
}

void fiber_resume(int i) { lora_edge_standin_switch(&scheduler, fibers[i]); }
void fiber_pause(int i) { lora_edge_standin_switch(&fibers[i], scheduler); }

#endif

}  // namespace lora_edge::standin
