// The driver's functions for streams, graphs, events and launches.
#include <time.h>

#include <algorithm>
#include <cstring>

#include "block.h"
#include "driver.h"

using namespace lora_edge::standin;  // NOLINT: the functions are global

constexpr unsigned kCall = kInit | kContext;

LORA_EDGE_STANDIN_API cuStreamCreate(CUstream* stream, unsigned flags) {
  return call("cuStreamCreate", kCall, [&](Driver& d) {
    if (flags > 1) fail(CUDA_ERROR_INVALID_VALUE, "flags ", flags);
    Stream made;
    made.device = d.current().device;
    wanted(stream, "stream") = d.streams.add(made);
  });
}

static void forget_capture(Driver& d, Stream& s) {
  d.capturing.erase(std::remove(d.capturing.begin(), d.capturing.end(), &s), d.capturing.end());
  s.capturing = s.invalid = false;
}

LORA_EDGE_STANDIN_API cuStreamDestroy_v2(CUstream stream) {
  return call("cuStreamDestroy_v2", kCall, [&](Driver& d) {
    forget_capture(d, d.streams.get(stream, "stream"));
    d.streams.remove(stream, "stream");
  });
}

LORA_EDGE_STANDIN_API cuStreamSynchronize(CUstream stream) {
  return call("cuStreamSynchronize", kCall | kSynchronous, [&](Driver& d) {
    if (d.stream(stream).capturing) fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "this stream is captured");
  });
}

LORA_EDGE_STANDIN_API cuStreamBeginCapture_v2(CUstream stream, int mode) {
  return call("cuStreamBeginCapture_v2", kCall, [&](Driver& d) {
    Stream& s = d.stream(stream);
    if (!stream) fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the stream that goes by null can't be captured");
    if (s.capturing || mode < kCaptureGlobal || mode > kCaptureRelaxed)
      fail(CUDA_ERROR_INVALID_VALUE, s.capturing ? "it is captured already" : "no such mode");
    s.capturing = true;
    s.mode = static_cast<CaptureMode>(mode);
    s.by = std::this_thread::get_id();
    s.captured.clear();
    d.capturing.push_back(&s);
  });
}

LORA_EDGE_STANDIN_API cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  return call("cuStreamEndCapture", kCall, [&](Driver& d) {
    Stream& s = d.stream(stream);
    wanted(graph, "graph") = nullptr;
    if (!s.capturing) fail(CUDA_ERROR_INVALID_VALUE, "this stream is not captured");
    const bool invalid = s.invalid;
    forget_capture(d, s);
    if (invalid) fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "a call during the capture was not permitted");
    *graph = d.graphs.add({s.device, std::move(s.captured)});
  });
}

static CUresult instantiate(const char* name, CUgraphExec* executable, CUgraph graph, int driver) {
  return call(name, kCall, [&](Driver& d) {
    if (d.machine.driver() < driver) fail(CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER, "this came with CUDA ", driver);
    wanted(executable, "executable") = d.executable_graphs.add(d.graphs.get(graph, "graph"));
  });
}

LORA_EDGE_STANDIN_API cuGraphInstantiate(CUgraphExec* executable, CUgraph graph, void*, char*, size_t) {
  return instantiate("cuGraphInstantiate", executable, graph, 10000);
}
LORA_EDGE_STANDIN_API cuGraphInstantiate_v2(CUgraphExec* executable, CUgraph graph, void*, char*, size_t) {
  return instantiate("cuGraphInstantiate_v2", executable, graph, 11000);
}
LORA_EDGE_STANDIN_API cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
  return instantiate("cuGraphInstantiateWithFlags", executable, graph, 11040);
}

LORA_EDGE_STANDIN_API cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  return call("cuGraphLaunch", kCall, [&](Driver& d) {
    const Graph& graph = d.executable_graphs.get(executable, "executable graph");
    if (d.stream(stream).capturing) fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "graphs in graphs aren't simulated");
    for (const Work& work : graph.nodes) work(true);
  });
}

LORA_EDGE_STANDIN_API cuGraphDestroy(CUgraph graph) {
  return call("cuGraphDestroy", kCall, [&](Driver& d) { d.graphs.remove(graph, "graph"); });
}
LORA_EDGE_STANDIN_API cuGraphExecDestroy(CUgraphExec graph) {
  return call("cuGraphExecDestroy", kCall, [&](Driver& d) { d.executable_graphs.remove(graph, "executable graph"); });
}

// The bytes of the one argument, by either of the ways in which cuLaunchKernel takes them.
static std::vector<unsigned char> arguments(const Kernel& kernel, void** parameters, void** extra) {
  const void* from = parameters ? parameters[0] : nullptr;
  size_t bytes = kernel.args_bytes;
  const auto tag = [](void* p) { return reinterpret_cast<uintptr_t>(p); };
  for (; !parameters && extra && tag(*extra); extra += 2) {  // pairs, up to 0: 1 and the bytes, 2 and how many
    if (tag(*extra) == 1) from = extra[1];
    if (tag(*extra) == 2) bytes = *static_cast<const size_t*>(extra[1]);
  }
  if (!from || bytes != kernel.args_bytes)
    fail(CUDA_ERROR_INVALID_VALUE, kernel.name, " takes one struct of ", kernel.args_bytes, " bytes");
  const auto* first = static_cast<const unsigned char*>(from);
  return {first, first + bytes};
}

static void check_launch(const Machine& machine, const Function& f, const unsigned (&grid)[3],
                         const unsigned (&block)[3], size_t dynamic) {
  const char* name = f.kernel->name;
  if (grid[0] < 1 || grid[1] < 1 || grid[2] < 1 || grid[0] > 0x7fffffffu || grid[1] > 65535 || grid[2] > 65535)
    fail(CUDA_ERROR_INVALID_VALUE, name, ": a grid of ", grid[0], " × ", grid[1], " × ", grid[2]);
  if (block[0] < 32 || block[0] % 32 || block[0] > static_cast<unsigned>(f.kernel->most_threads) || block[1] != 1 ||
      block[2] != 1)
    fail(CUDA_ERROR_INVALID_VALUE, name, ": a block of ", block[0], " × ", block[1], " × ", block[2],
         "; whole warps in one dimension, up to ", f.kernel->most_threads, " threads");
  const bool raised = f.dynamic_limit > kSharedBytes;
  const size_t all = dynamic + f.static_shared,
               most = raised ? static_cast<size_t>(machine.shared_optin()) : kSharedBytes;
  if (dynamic > f.dynamic_limit || all > most)
    fail(CUDA_ERROR_INVALID_VALUE, name, ": ", dynamic, " bytes of dynamic shared memory beside ", f.static_shared,
         "; it may have ", f.dynamic_limit, ", together ", most);
}

LORA_EDGE_STANDIN_API cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                     unsigned block_x, unsigned block_y, unsigned block_z, unsigned dynamic,
                                     CUstream stream, void** parameters, void** extra) {
  return call("cuLaunchKernel", kCall, [&](Driver& d) {
    const Function f = d.function(function);
    Context& context = d.current();
    if (f.device != context.device) fail(CUDA_ERROR_INVALID_HANDLE, f.kernel->name, " is another device's");
    check_launch(d.machine, f, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, dynamic);
    d.submit(stream, [=, &d, &context, args = arguments(*f.kernel, parameters, extra)](bool replayed) {
      ++(replayed ? f.kernel->replays : f.kernel->launches);
      try {
        if (d.machine.fails("launch"))
          fail(CUDA_ERROR_LAUNCH_FAILED, f.kernel->name, ": as LORA_EDGE_STANDIN_FAIL asks");
        d.order.read_environment();
        run_grid(
            {f.kernel, args.data(), {grid_x, grid_y, grid_z}, static_cast<int>(block_x), dynamic, f.static_shared > 0},
            d.order);
      } catch (const Failure& failure) {
        context.broken = failure.code;
        throw;
      }
    });
  });
}

LORA_EDGE_STANDIN_API cuEventCreate(CUevent* event, unsigned) {
  return call("cuEventCreate", kCall, [&](Driver& d) {
    Event made;
    made.device = d.current().device;
    wanted(event, "event") = d.events.add(made);
  });
}

LORA_EDGE_STANDIN_API cuEventDestroy_v2(CUevent event) {
  return call("cuEventDestroy_v2", kCall, [&](Driver& d) { d.events.remove(event, "event"); });
}

LORA_EDGE_STANDIN_API cuEventRecord(CUevent event, CUstream stream) {
  return call("cuEventRecord", kCall, [&](Driver& d) {
    Event& e = d.events.get(event, "event");
    e.captured = d.stream(stream).capturing;
    e.recorded = !e.captured;
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    e.ms = static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) * 1e-6;
  });
}

LORA_EDGE_STANDIN_API cuEventSynchronize(CUevent event) {
  return call("cuEventSynchronize", kCall | kSynchronous, [&](Driver& d) {
    if (d.events.get(event, "event").captured) fail(CUDA_ERROR_CAPTURED_EVENT, "it was recorded in a capture");
  });
}

LORA_EDGE_STANDIN_API cuEventElapsedTime(float* ms, CUevent begin, CUevent end) {
  return call("cuEventElapsedTime", kCall, [&](Driver& d) {
    const Event &a = d.events.get(begin, "event"), &b = d.events.get(end, "event");
    if (!a.recorded || !b.recorded) fail(CUDA_ERROR_INVALID_HANDLE, "an event that was not recorded");
    wanted(ms, "ms") = static_cast<float>(b.ms - a.ms);
  });
}
