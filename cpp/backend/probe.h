// What this machine can do at most, to set a model's speed against. Each runs passes of its work on `threads` threads
// for about `seconds` and takes the fastest pass: what disturbs a pass only makes it slower. InputError: threads not
// from 1 to 1024, or seconds not from 0 to 60.
#pragma once

namespace lora_edge {

// Bytes per second read in order from memory, out of a buffer that no cache holds.
double read_bandwidth(int threads, double seconds);

// Multiply-adds per second of the active table's byte dot products, on registers alone.
double int8_peak(int threads, double seconds);

// Multiply-adds per second of the active table's Q8_0 product: W [n, k] by m rows, already quantised.
double matmul_q8(int m, int n, int k, int threads, double seconds);

}  // namespace lora_edge
