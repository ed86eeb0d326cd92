// The CUDA driver's functions that are used here, loaded from libcuda.so.1 at first use: no toolkit is needed to build
// or to run.
#pragma once

#include <cstddef>
#include <string>

namespace lora_edge::cuda {

using Result = int;
using Handle = void*;  // of a context, module, function, stream, graph or event
using Address = unsigned long long;

// name, symbol, parameters. All exist since CUDA 10.2's drivers (JetPack 4.6).
#define LORA_EDGE_CUDA_FUNCTIONS(X)                                                                         \
  X(init, "cuInit", (unsigned))                                                                             \
  X(driver_version, "cuDriverGetVersion", (int*))                                                           \
  X(device_count, "cuDeviceGetCount", (int*))                                                               \
  X(device_get, "cuDeviceGet", (int*, int))                                                                 \
  X(device_name, "cuDeviceGetName", (char*, int, int))                                                      \
  X(device_attribute, "cuDeviceGetAttribute", (int*, int, int))                                             \
  X(device_memory, "cuDeviceTotalMem_v2", (size_t*, int))                                                   \
  X(context_retain, "cuDevicePrimaryCtxRetain", (Handle*, int))                                             \
  X(context_release, "cuDevicePrimaryCtxRelease_v2", (int))                                                 \
  X(context_set, "cuCtxSetCurrent", (Handle))                                                               \
  X(module_load, "cuModuleLoadDataEx", (Handle*, const void*, unsigned, int*, void**))                      \
  X(module_unload, "cuModuleUnload", (Handle))                                                              \
  X(module_function, "cuModuleGetFunction", (Handle*, Handle, const char*))                                 \
  X(function_set, "cuFuncSetAttribute", (Handle, int, int))                                                 \
  X(memory_info, "cuMemGetInfo_v2", (size_t*, size_t*))                                                     \
  X(memory_allocate, "cuMemAlloc_v2", (Address*, size_t))                                                   \
  X(memory_free, "cuMemFree_v2", (Address))                                                                 \
  X(copy_in, "cuMemcpyHtoDAsync_v2", (Address, const void*, size_t, Handle))                                \
  X(copy_out, "cuMemcpyDtoHAsync_v2", (void*, Address, size_t, Handle))                                     \
  X(copy_within, "cuMemcpyDtoDAsync_v2", (Address, Address, size_t, Handle))                                \
  X(fill, "cuMemsetD8Async", (Address, unsigned char, size_t, Handle))                                      \
  X(stream_create, "cuStreamCreate", (Handle*, unsigned))                                                   \
  X(stream_destroy, "cuStreamDestroy_v2", (Handle))                                                         \
  X(stream_wait, "cuStreamSynchronize", (Handle))                                                           \
  X(launch, "cuLaunchKernel",                                                                               \
    (Handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, Handle, void**, void**)) \
  X(error_name, "cuGetErrorName", (Result, const char**))                                                   \
  X(error_text, "cuGetErrorString", (Result, const char**))

// Graphs: a driver that lacks one of these runs without. Three generations of making one executable.
#define LORA_EDGE_CUDA_GRAPH_FUNCTIONS(X)                                               \
  X(capture_begin, "cuStreamBeginCapture_v2", (Handle, int))                            \
  X(capture_end, "cuStreamEndCapture", (Handle, Handle*))                               \
  X(graph_launch, "cuGraphLaunch", (Handle, Handle))                                    \
  X(graph_destroy, "cuGraphDestroy", (Handle))                                          \
  X(graph_exec_destroy, "cuGraphExecDestroy", (Handle))                                 \
  X(instantiate_10, "cuGraphInstantiate", (Handle*, Handle, Handle*, char*, size_t))    \
  X(instantiate_11, "cuGraphInstantiate_v2", (Handle*, Handle, Handle*, char*, size_t)) \
  X(instantiate_114, "cuGraphInstantiateWithFlags", (Handle*, Handle, unsigned long long))

struct Driver {
#define LORA_EDGE_CUDA_MEMBER(name, symbol, parameters) Result(*name) parameters;
  LORA_EDGE_CUDA_FUNCTIONS(LORA_EDGE_CUDA_MEMBER)
  LORA_EDGE_CUDA_GRAPH_FUNCTIONS(LORA_EDGE_CUDA_MEMBER)
#undef LORA_EDGE_CUDA_MEMBER
  int version;  // 12060: CUDA 12.6

  // RuntimeError in Python, which names the call, unless `result` is 0.
  void check(Result result, const char* call) const;
  bool can_capture() const {
    return capture_begin && capture_end && graph_launch && graph_destroy && graph_exec_destroy &&
           (instantiate_10 || instantiate_11 || instantiate_114);
  }
  Result instantiate(Handle* made, Handle graph) const;
};

// The driver, initialised; nullptr where it can't be had, and `why` says it in words. LORA_EDGE_LIBCUDA names another
// library than libcuda.so.1.
const Driver* find_driver(std::string* why);

constexpr Result kOutOfMemory = 2, kNoImage = 209, kInvalidPtx = 218, kNotFound = 500, kUnsupportedPtx = 222;

}  // namespace lora_edge::cuda
