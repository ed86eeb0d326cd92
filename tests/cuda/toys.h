// Arguments of the toy kernels.
#pragma once

struct ReduceArgs {
  const float* x;  // (blocks × 256)
  float* y;        // (blocks)
};
struct ShuffleArgs {
  const int* x;  // (32)
  int* y;        // (4 × 32): of lane ^ 5, of lane 31 - l, as floats of lane ^ 16, and the sum
};
struct MmaArgs {
  const signed char* a;  // (16 × 32)
  const signed char* b;  // (8 × 32): columns of 32 × 8
  int* c;                // (16 × 8), added to
};
struct DotArgs {
  const int *a, *b, *c;
  int* y;
  int n;
};
struct HalfArgs {
  float* floats;           // (65536): of every half
  const float* x;          // (n)
  unsigned short* halves;  // (n)
  int n;
};
struct IndexArgs {
  unsigned char* x;
  long long at;  // bytes
};
struct TicketArgs {
  int* counter;
  int* y;  // (blocks × 2 × threads)
};
