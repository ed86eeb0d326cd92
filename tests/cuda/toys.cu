// Kernels that show what the stand-in for libcuda does and what it finds.
#include "device.h"
#include "toys.h"

namespace {

// Sums 256 floats of a block in shared memory. Without a barrier each, threads read what others haven't written yet.
template <bool first_barrier, bool step_barriers>
DEVICE void reduce(const ReduceArgs& a) {
  SHARED float sums[256];
  const int t = thread_id();
  sums[t] = a.x[block_x() * 256 + t];
  if (first_barrier) sync();
  for (int n = 128; n > 0; n /= 2) {
    if (t < n) sums[t] += sums[t + n];
    if (step_barriers) sync();
  }
  if (t == 0) a.y[block_x()] = sums[0];
}

}  // namespace

KERNEL(toy_reduce, ReduceArgs, 256) { reduce<true, true>(a); }
KERNEL(toy_reduce_no_first_barrier, ReduceArgs, 256) { reduce<false, true>(a); }
KERNEL(toy_reduce_no_step_barriers, ReduceArgs, 256) { reduce<true, false>(a); }

// The same of one warp: sums in dynamic shared memory, 32 floats.
KERNEL(toy_reduce_warp, ReduceArgs, 32) {
  float* sums = reinterpret_cast<float*>(dynamic_shared());
  const int t = thread_id();
  sums[t] = a.x[t];
  sync_warp();
  for (int n = 16; n > 0; n /= 2) {
    if (t < n) sums[t] += sums[t + n];
    sync_warp();
  }
  if (t == 0) a.y[0] = sums[0];
}
KERNEL(toy_reduce_warp_no_barrier, ReduceArgs, 32) {
  float* sums = reinterpret_cast<float*>(dynamic_shared());
  sums[thread_id()] = a.x[thread_id()];
  a.y[thread_id()] = sums[31 - thread_id()];
}

// Half of the threads don't come.
KERNEL(toy_divergent, ReduceArgs, 256) {
  if (thread_id() < 128) sync();
  a.y[thread_id()] = 1;
}
KERNEL(toy_divergent_shuffle, ReduceArgs, 256) {
  float v = a.x[thread_id()];
  if (thread_id() % 2)
    v = shuffle_xor(v, 2);
  else
    sync_warp();
  a.y[thread_id()] = v;
}

KERNEL(toy_shuffle, ShuffleArgs, 32) {
  const int l = thread_id();
  int v = a.x[l];
  a.y[l] = shuffle_xor(v, 5);
  a.y[32 + l] = static_cast<int>(shuffle(static_cast<unsigned>(v), 31 - l));
  a.y[64 + l] = static_cast<int>(shuffle_xor(static_cast<float>(v), 16));
  for (int n = 16; n > 0; n /= 2) v += shuffle_xor(v, n);
  a.y[96 + l] = v;
}

#if HAS_MMA_S8
KERNEL(toy_mma, MmaArgs, 32) {
  const int g = thread_id() / 4, q = thread_id() % 4;
  const int* rows = reinterpret_cast<const int*>(a.a);
  const int* columns = reinterpret_cast<const int*>(a.b);
  const unsigned left[4] = {static_cast<unsigned>(rows[8 * g + q]), static_cast<unsigned>(rows[8 * g + 64 + q]),
                            static_cast<unsigned>(rows[8 * g + 4 + q]), static_cast<unsigned>(rows[8 * g + 68 + q])};
  const unsigned right[2] = {static_cast<unsigned>(columns[8 * g + q]), static_cast<unsigned>(columns[8 * g + 4 + q])};
  int c[4];
  for (int i = 0; i < 4; ++i) c[i] = a.c[8 * (g + i / 2 * 8) + 2 * q + i % 2];
  mma_s8(c, left, right);
  for (int i = 0; i < 4; ++i) a.c[8 * (g + i / 2 * 8) + 2 * q + i % 2] = c[i];
}
#endif

KERNEL(toy_dot4, DotArgs, 64) {
  const int i = block_x() * n_threads() + thread_id();
  if (i < a.n) a.y[i] = dot4(a.a[i], load_cached(a.b + i), a.c[i]);
}

KERNEL(toy_half, HalfArgs, 256) {
  for (int i = block_x() * n_threads() + thread_id(); i < 65536; i += grid_x() * n_threads())
    a.floats[i] = half_to_float(static_cast<unsigned short>(i));
  for (int i = block_x() * n_threads() + thread_id(); i < a.n; i += grid_x() * n_threads())
    a.halves[i] = float_to_half(a.x[i]);
}

// Each thread draws a ticket before a barrier, and another behind it.
KERNEL(toy_tickets, TicketArgs, 64) {
  int* mine = a.y + 2 * block_x() * n_threads() + thread_id();
  mine[0] = atomic_add(a.counter, 1);
  sync();
  mine[n_threads()] = atomic_add(a.counter, 1);
}

// Every thread of a three-dimensional grid counts itself.
KERNEL(toy_count, IndexArgs, 64) {
  int* counts = reinterpret_cast<int*>(a.x);
  atomic_add(counts + (block_z() * grid_y() + block_y()) * grid_x() + block_x(), 1);
}

// What a device refuses: an address that is no multiple of 4, an index past an array's end, bytes past an allocation's.
KERNEL(toy_store_int, IndexArgs, 32) {
  if (thread_id() == 0) *reinterpret_cast<int*>(a.x + a.at) = 1;
}
KERNEL(toy_shared_index, IndexArgs, 32) {
  SHARED unsigned char bytes[64];
  bytes[thread_id() + a.at] = 7;
  sync();
  a.x[thread_id()] = bytes[thread_id() + a.at];
}
// What shared memory holds at first.
KERNEL(toy_garbage, IndexArgs, 32) {
  alignas(16) SHARED unsigned char fixed[32];
  a.x[thread_id()] = fixed[thread_id()];
  a.x[32 + thread_id()] = dynamic_shared()[thread_id()];
  fixed[thread_id()] = dynamic_shared()[thread_id()] = 0;
}
