// What a thread of a kernel asks of the block that it runs in. Kernels see these declarations, so this file includes
// little: POSIX has a sync() too.
#pragma once

#include <cstddef>

namespace lora_edge::standin {

constexpr int kLanes = 32;  // of a warp

// Where the thread that is running is.
struct Place {
  int thread, threads;
  int turn;  // 0 and 1 from one barrier of the warp to the next
  int block[3], grid[3];
  unsigned char* dynamic_shared;
};
extern __attribute__((visibility("hidden"))) Place place;

// What a thread waits for, if anything.
enum class Wait : unsigned char { nothing, block, warp, shuffle, mma, exited };

// Returns when all threads of the block, or of the warp, wait for the same.
void wait(Wait what);

// v of another lane of the warp, which all 32 lanes take part in.
unsigned shuffle_bits(unsigned v, int from_lane);

// PTX's mma.m16n8k32 of signed bytes: c += a·b, all in fragments of the warp's lanes.
void mma_fragments(int c[4], const unsigned a[4], const unsigned b[2]);

// Makes a kernel known: `run` is one thread of it. KERNEL of device.h defines one.
struct Registration {
  Registration(const char* name, size_t args_bytes, int most_threads, void (*run)(const void* args));
};

}  // namespace lora_edge::standin
