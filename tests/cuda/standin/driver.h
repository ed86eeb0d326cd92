// The driver's state, and what every call goes through.
#pragma once

#include <functional>
#include <list>
#include <vector>

#include "handles.h"
#include "machine.h"
#include "memory.h"
#include "module.h"
#include "order.h"
#include "stream.h"

#define LORA_EDGE_STANDIN_API extern "C" __attribute__((visibility("default"))) lora_edge::standin::CUresult

namespace lora_edge::standin {

// A device's primary context.
struct Context {
  int device;
  int retained = 0;
  CUresult broken = CUDA_SUCCESS;  // what ended a kernel; every later call of the context gives it, as devices do
  Stream stream;                   // the one that goes by null
};

struct Driver {
  bool initialised = false;
  Machine machine;
  Order order;
  Memory memory;
  std::list<Context> contexts;  // one per device
  Handles<Module> modules;
  Handles<Stream> streams;
  std::vector<Stream*> capturing;
  Handles<Event> events;
  Handles<Graph> graphs, executable_graphs;

  Context& context_of(int device);
  // The calling thread's; Failure without.
  Context& current();
  Stream& stream(CUstream handle);
  Function& function(CUfunction handle);
  // Does the work, or keeps it for the graph that is being captured.
  void submit(CUstream handle, const Work& work);
  // Failure while a capture forbids what may wait for a device, which ends that capture.
  void not_in_capture();
};

// What a call asks for before it begins.
enum Needs : unsigned {
  kNothing = 0,
  kInit = 1,         // cuInit
  kContext = 2,      // a current context in order
  kSynchronous = 4,  // no capture that forbids waiting
};

// Runs a function of the driver, one at a time, and gives its result. Failures are logged.
CUresult call(const char* name, unsigned needs, const std::function<void(Driver&)>& body);

// The calling thread's current context, or null.
Context* current_context();
void set_current_context(Context* context);

template <class T>
T& wanted(T* p, const char* what) {
  if (!p) fail(CUDA_ERROR_INVALID_VALUE, what, " is null");
  return *p;
}

}  // namespace lora_edge::standin
