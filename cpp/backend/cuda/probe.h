// What a GPU can do at most, to set a model's speed against: the fastest of passes that take about `seconds` together.
#pragma once

namespace lora_edge::cuda {

// Bytes per second that copies within the device's memory read and write, both counted.
double copy_bandwidth(int index, double seconds);

// Multiply-adds per second of the byte products that the kernels use, on registers alone.
double int8_peak(int index, double seconds);

}  // namespace lora_edge::cuda
