// What the lanes of a warp tell each other: each puts its words where the others find them, and reads theirs after a
// barrier.
#include "device.h"
#include "fiber.h"

namespace lora_edge::standin {
namespace {

constexpr int kWords = 6;

// Two places for each lane's words, used in turn: a lane writes the second while others may still read the first, and
// the first again only when all have come to the second's barrier.
unsigned words[2][kMostFibers][kWords];

// Gives this lane's words away; the result is where lane 0's are, and behind them the others'.
const unsigned (*exchange(Wait barrier, const unsigned* mine, int count))[kWords] {
  const int thread = place.thread, turn = place.turn;
  std::memcpy(words[turn][thread], mine, static_cast<size_t>(count) * sizeof(unsigned));
  wait(barrier);
  return words[turn] + thread / kLanes * kLanes;
}

}  // namespace

unsigned shuffle_bits(unsigned v, int from_lane) { return exchange(Wait::shuffle, &v, 1)[from_lane & 31][0]; }

// Lane l holds, with g = l / 4 and q = l % 4:
//   a (16 × 32): row g (words 0, 2) and g + 8 (words 1, 3), columns 4 q + 0…3 (words 0, 1) and 16 more (words 2, 3)
//   b (32 × 8): column g, rows 4 q + 0…3 (word 0) and 16 more (word 1)
//   c (16 × 8): row g (0, 1) and g + 8 (2, 3), columns 2 q (0, 2) and 2 q + 1 (1, 3)
void mma_fragments(int c[4], const unsigned a[4], const unsigned b[2]) {
  const unsigned mine[kWords] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const unsigned(*lanes)[kWords] = exchange(Wait::mma, mine, kWords);
  const int g = place.thread % kLanes / 4, q = place.thread % 4;
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 8; ++k) {
      const unsigned row = lanes[4 * g + k % 4][i / 2 + k / 4 * 2];
      const unsigned column = lanes[4 * (2 * q + i % 2) + k % 4][4 + k / 4];
      c[i] = dot4(static_cast<int>(row), static_cast<int>(column), c[i]);
    }
  }
}

}  // namespace lora_edge::standin
