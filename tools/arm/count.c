// A plugin for QEMU's user emulation (TCG): counts the instructions that a program executes between two marks and logs a
// number per pair of them. A mark is `hint #127`, which every Arm CPU executes as a nop; marks don't count themselves.
//   cc -O2 -shared -fPIC count.c -o count.so;  qemu-aarch64 -plugin ./count.so -d plugin PROGRAM
// Declares what it needs of the plugin API, version 1, as distributions don't package qemu-plugin.h.
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t Id;
typedef struct qemu_plugin_tb Block;
typedef struct qemu_plugin_insn Insn;
enum { INLINE_ADD_U64 = 0, CB_NO_REGS = 0 };
size_t qemu_plugin_tb_n_insns(const Block*);
Insn* qemu_plugin_tb_get_insn(const Block*, size_t);
const void* qemu_plugin_insn_data(const Insn*);
void qemu_plugin_register_vcpu_tb_trans_cb(Id, void (*)(Id, Block*));
void qemu_plugin_register_vcpu_insn_exec_inline(Insn*, int op, void* counter, uint64_t add);
void qemu_plugin_register_vcpu_insn_exec_cb(Insn*, void (*)(unsigned vcpu, void*), int flags, void*);
void qemu_plugin_outs(const char*);

int qemu_plugin_version = 1;

static const uint32_t kMark = 0xd5032fff;  // hint #127
static uint64_t executed, begun_at;
static int begun;

static void mark(unsigned vcpu, void* unused) {
  (void)vcpu, (void)unused;
  if (begun) {
    char line[32];
    snprintf(line, sizeof(line), "%" PRIu64 "\n", executed - begun_at);
    qemu_plugin_outs(line);
  }
  begun = !begun;
  begun_at = executed;
}

static void translate(Id id, Block* block) {
  (void)id;
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); ++i) {
    Insn* insn = qemu_plugin_tb_get_insn(block, i);
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(insn), sizeof(word));
    if (word == kMark)
      qemu_plugin_register_vcpu_insn_exec_cb(insn, mark, CB_NO_REGS, NULL);
    else
      qemu_plugin_register_vcpu_insn_exec_inline(insn, INLINE_ADD_U64, &executed, 1);
  }
}

int qemu_plugin_install(Id id, const void* info, int argc, char** argv) {
  (void)info, (void)argc, (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
  return 0;
}
