// The likeliest of a row's logits, in order: each block sorts a stretch of the row and keeps the first k, until one
// block holds them all.
#include "device.h"
//
#include "args.h"
#include "functions.h"

namespace lora_edge::cuda {
namespace {

constexpr int kThreads = 512;
using Key = unsigned long long;

// Keys are in the order of their logits, and of equal ones the smaller id's is the larger. Positive NaN is above all,
// negative below. No key is 0.
DEVICE Key key_of(float logit, int id) {
  const unsigned bits = float_to_bits(logit + 0.0f);  // one zero
  const unsigned ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return static_cast<Key>(ordered) << 32 | ~static_cast<unsigned>(id);
}

DEVICE float logit_of(Key key) {
  const unsigned ordered = static_cast<unsigned>(key >> 32);
  return bits_to_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}

// Batcher's bitonic network (1968), largest first; size: a power of two.
DEVICE void sort(Key* keys, int size) {
  for (int span = 2; span <= size; span *= 2)
    for (int apart = span / 2; apart > 0; apart /= 2) {
      for (int pair = thread_id(); pair < size / 2; pair += kThreads) {
        const int i = 2 * pair - (pair & (apart - 1)), j = i + apart;
        const Key a = keys[i], b = keys[j];
        if ((a < b) == ((i & span) == 0)) {
          keys[i] = b;
          keys[j] = a;
        }
      }
      sync();
    }
}

}  // namespace

// block_x: the stretch of the row, block_y: the row.
KERNEL(likeliest, LikeliestArgs, 512) {
  SHARED Key keys[kStretch];
  SHARED float totals[kThreads / 32];
  const long long row = block_y(), out = row * grid_x() + block_x();
  const int begin = block_x() * kStretch, left = a.n - begin, count = left < kStretch ? left : kStretch;
  int size = 1;
  while (size < count) size *= 2;
  for (int i = thread_id(); i < size; i += kThreads) {
    const long long at = row * a.n + begin + i;
    keys[i] = i >= count ? 0 : a.logits ? key_of(a.logits[at], begin + i) : a.keys[at];
  }
  sync();
  sort(keys, size);
  for (int i = thread_id(); i < a.k; i += kThreads) a.out[out * a.k + i] = i < size ? keys[i] : 0;
  if (!a.logits) return;

  const float most = logit_of(keys[0]);
  float total = 0.0f;
  for (int i = thread_id(); i < count; i += kThreads) total += exp_(logit_of(keys[i]) - most);
  for (int apart = 16; apart > 0; apart /= 2) total += shuffle_xor(total, apart);
  if (thread_id() % 32 == 0) totals[thread_id() / 32] = total;
  sync();
  if (thread_id() != 0) return;
  for (int w = 1; w < kThreads / 32; ++w) total += totals[w];
  a.stretches[out] = {most, logit_of(keys[count - 1]), total};
}

}  // namespace lora_edge::cuda
