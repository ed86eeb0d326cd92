// Fibers: up to 1024 stacks that take turns on one OS thread, numbered from 0. A stack is mapped at its first use, with
// an unreadable page below it, and kept.
#pragma once

namespace lora_edge::standin {

constexpr int kMostFibers = 1024;

// Fiber i begins with `main`, which never returns, when it is next resumed. Whatever it was doing is forgotten.
void fiber_start(int i, void (*main)());

// Runs fiber i until it pauses. Called outside of fibers.
void fiber_resume(int i);

// Called in fiber i: back to where it was resumed, until it is resumed again.
void fiber_pause(int i);

}  // namespace lora_edge::standin
