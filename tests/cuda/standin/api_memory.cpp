// The driver's functions for memory: allocating, copying, filling.
#include <cstring>

#include "driver.h"
#include "registry.h"

using namespace lora_edge::standin;  // NOLINT: the functions are global

constexpr unsigned kCopy = kInit | kContext | kSynchronous;

static void* host(CUdeviceptr p) { return reinterpret_cast<void*>(static_cast<uintptr_t>(p)); }

LORA_EDGE_STANDIN_API cuMemGetInfo_v2(size_t* free, size_t* total) {
  return call("cuMemGetInfo_v2", kInit | kContext, [&](Driver& d) {
    const size_t used = d.memory.used(d.current().device), all = d.machine.memory();
    wanted(free, "free") = used < all ? all - used : 0;
    wanted(total, "total") = all;
  });
}

LORA_EDGE_STANDIN_API cuMemAlloc_v2(CUdeviceptr* p, size_t bytes) {
  return call("cuMemAlloc_v2", kInit | kContext | kSynchronous, [&](Driver& d) {
    if (d.machine.fails("alloc")) fail(CUDA_ERROR_OUT_OF_MEMORY, "as LORA_EDGE_STANDIN_FAIL asks");
    wanted(p, "p") = d.memory.allocate(bytes, d.current().device, d.machine.memory());
  });
}

LORA_EDGE_STANDIN_API cuMemFree_v2(CUdeviceptr p) {
  return call("cuMemFree_v2", kInit | kContext | kSynchronous,
              [&](Driver& d) { d.memory.free(static_cast<uintptr_t>(p)); });
}

LORA_EDGE_STANDIN_API cuMemAllocHost_v2(void** p, size_t bytes) {
  return call("cuMemAllocHost_v2", kInit | kContext | kSynchronous,
              [&](Driver& d) { wanted(p, "p") = d.memory.allocate_host(bytes, d.current().device); });
}

LORA_EDGE_STANDIN_API cuMemFreeHost(void* p) {
  return call("cuMemFreeHost", kInit | kContext | kSynchronous, [&](Driver& d) { d.memory.free_host(p); });
}

LORA_EDGE_STANDIN_API cuMemHostRegister_v2(void* p, size_t bytes, unsigned) {
  return call("cuMemHostRegister_v2", kInit | kContext | kSynchronous,
              [&](Driver& d) { d.memory.register_host(p, bytes, d.current().device); });
}

LORA_EDGE_STANDIN_API cuMemHostUnregister(void* p) {
  return call("cuMemHostUnregister", kInit | kContext | kSynchronous, [&](Driver& d) { d.memory.unregister_host(p); });
}

LORA_EDGE_STANDIN_API cuMemHostGetDevicePointer_v2(CUdeviceptr* device, void* p, unsigned flags) {
  return call("cuMemHostGetDevicePointer_v2", kInit | kContext, [&](Driver& d) {
    if (flags) fail(CUDA_ERROR_INVALID_VALUE, "flags ", flags);
    wanted(device, "device") = d.memory.device_address(p);
  });
}

// A copy between a device's memory and the host's, or another device address, whose ranges are checked when it is made:
// that is at once, or each time that a graph is launched.
enum class Side { device, host };
static Work copy(Driver& d, void* to, Side to_side, const void* from, Side from_side, size_t bytes) {
  const auto check = [&d](const void* p, Side side, size_t n) {
    if (side == Side::device)
      d.memory.check_device(reinterpret_cast<uintptr_t>(p), n);
    else
      d.memory.check_host(p, n);
  };
  return [=](bool) {
    if (bytes == 0) return;
    check(to, to_side, bytes);
    check(from, from_side, bytes);
    std::memmove(to, from, bytes);
    if (to_side == Side::host) copied_out() += bytes;
  };
}

LORA_EDGE_STANDIN_API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
  return call("cuMemcpyHtoD_v2", kCopy,
              [&](Driver& d) { copy(d, host(to), Side::device, from, Side::host, bytes)(false); });
}

LORA_EDGE_STANDIN_API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
  return call("cuMemcpyDtoH_v2", kCopy,
              [&](Driver& d) { copy(d, to, Side::host, host(from), Side::device, bytes)(false); });
}

LORA_EDGE_STANDIN_API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
  return call("cuMemcpyDtoD_v2", kCopy,
              [&](Driver& d) { copy(d, host(to), Side::device, host(from), Side::device, bytes)(false); });
}

LORA_EDGE_STANDIN_API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  return call("cuMemcpyHtoDAsync_v2", kInit | kContext,
              [&](Driver& d) { d.submit(stream, copy(d, host(to), Side::device, from, Side::host, bytes)); });
}

LORA_EDGE_STANDIN_API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return call("cuMemcpyDtoHAsync_v2", kInit | kContext,
              [&](Driver& d) { d.submit(stream, copy(d, to, Side::host, host(from), Side::device, bytes)); });
}

LORA_EDGE_STANDIN_API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  return call("cuMemcpyDtoDAsync_v2", kInit | kContext,
              [&](Driver& d) { d.submit(stream, copy(d, host(to), Side::device, host(from), Side::device, bytes)); });
}

LORA_EDGE_STANDIN_API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
  return call("cuMemsetD8Async", kInit | kContext, [&](Driver& d) {
    d.submit(stream, [=, &d](bool) {
      if (bytes == 0) return;
      d.memory.check_device(static_cast<uintptr_t>(to), bytes);
      std::memset(host(to), value, bytes);
    });
  });
}
