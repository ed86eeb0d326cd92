// The driver's functions for devices, contexts, modules and errors.
#include <algorithm>
#include <cstdint>
#include <cstdio>

#include "driver.h"

using namespace lora_edge::standin;  // NOLINT: the functions are global

LORA_EDGE_STANDIN_API cuInit(unsigned flags) {
  return call("cuInit", kNothing, [&](Driver& d) {
    if (flags) fail(CUDA_ERROR_INVALID_VALUE, "flags ", flags);
    if (!kernels().size()) fail(CUDA_ERROR_UNKNOWN, "no kernels are compiled in");
    d.machine = Machine::from_environment();
    if (d.machine.fails("init")) fail(CUDA_ERROR_UNKNOWN, "as LORA_EDGE_STANDIN_FAIL asks");
    if (d.machine.devices() == 0) fail(CUDA_ERROR_NO_DEVICE, "LORA_EDGE_STANDIN_DEVICES is 0");
    for (int i = static_cast<int>(d.contexts.size()); i < d.machine.devices(); ++i) {
      d.contexts.emplace_back();
      d.contexts.back().device = d.contexts.back().stream.device = i;
    }
    d.initialised = true;
  });
}

LORA_EDGE_STANDIN_API cuDriverGetVersion(int* version) {
  return call("cuDriverGetVersion", kNothing,
              [&](Driver&) { wanted(version, "version") = Machine::from_environment().driver(); });
}

LORA_EDGE_STANDIN_API cuDeviceGetCount(int* count) {
  return call("cuDeviceGetCount", kNothing, [&](Driver& d) {
    const Machine machine = Machine::from_environment();
    if (machine.devices() && !d.initialised) fail(CUDA_ERROR_NOT_INITIALIZED, "cuInit has not been called");
    wanted(count, "count") = machine.devices();
  });
}

static void check_device(const Driver& d, int device) {
  if (device < 0 || device >= d.machine.devices())
    fail(CUDA_ERROR_INVALID_DEVICE, "device ", device, " of ", d.machine.devices());
}

LORA_EDGE_STANDIN_API cuDeviceGet(CUdevice* device, int ordinal) {
  return call("cuDeviceGet", kInit, [&](Driver& d) {
    check_device(d, ordinal);
    wanted(device, "device") = ordinal;
  });
}

LORA_EDGE_STANDIN_API cuDeviceGetName(char* name, int length, CUdevice device) {
  return call("cuDeviceGetName", kInit, [&](Driver& d) {
    check_device(d, device);
    if (!name || length < 1) fail(CUDA_ERROR_INVALID_VALUE, "no room for a name");
    std::snprintf(name, static_cast<size_t>(length), "%s", d.machine.name().c_str());
  });
}

LORA_EDGE_STANDIN_API cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
  return call("cuDeviceGetAttribute", kInit, [&](Driver& d) {
    check_device(d, device);
    wanted(value, "value") = d.machine.attribute(attribute);
  });
}

LORA_EDGE_STANDIN_API cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  return call("cuDeviceTotalMem_v2", kInit, [&](Driver& d) {
    check_device(d, device);
    wanted(bytes, "bytes") = d.machine.memory();
  });
}

LORA_EDGE_STANDIN_API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  return call("cuDevicePrimaryCtxRetain", kInit, [&](Driver& d) {
    check_device(d, device);
    Context& c = d.context_of(device);
    ++c.retained;
    wanted(context, "context") = &c;
  });
}

// The last release takes everything with it, and what broke the context.
LORA_EDGE_STANDIN_API cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  return call("cuDevicePrimaryCtxRelease_v2", kInit, [&](Driver& d) {
    check_device(d, device);
    Context& c = d.context_of(device);
    if (c.retained == 0) fail(CUDA_ERROR_INVALID_CONTEXT, "device ", device, "'s context is not retained");
    if (--c.retained) return;
    const auto here = [&](const Stream* s) { return s->device == device; };
    d.capturing.erase(std::remove_if(d.capturing.begin(), d.capturing.end(), here), d.capturing.end());
    d.modules.clear(device);
    d.streams.clear(device);
    d.events.clear(device);
    d.graphs.clear(device);
    d.executable_graphs.clear(device);
    d.memory.free_all(device);
    c.broken = CUDA_SUCCESS;
    c.stream = Stream();
    c.stream.device = device;
  });
}

LORA_EDGE_STANDIN_API cuCtxSetCurrent(CUcontext context) {
  return call("cuCtxSetCurrent", kInit, [&](Driver& d) {
    bool live = !context;
    for (Context& c : d.contexts) live = live || (&c == context && c.retained);
    if (!live) fail(CUDA_ERROR_INVALID_CONTEXT, "no live context");
    set_current_context(context);
  });
}

LORA_EDGE_STANDIN_API cuCtxGetCurrent(CUcontext* context) {
  return call("cuCtxGetCurrent", kInit, [&](Driver&) { wanted(context, "context") = current_context(); });
}

LORA_EDGE_STANDIN_API cuCtxSynchronize() {
  return call("cuCtxSynchronize", kInit | kContext | kSynchronous, [](Driver&) {});
}

// What is wrong with a text also goes to the caller's error log, if there is one.
LORA_EDGE_STANDIN_API cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned count, int* options,
                                         void** values) {
  return call("cuModuleLoadDataEx", kInit | kContext | kSynchronous, [&](Driver& d) {
    char* log = nullptr;
    size_t log_bytes = 0;
    for (unsigned i = 0; i < count; ++i) {
      if (options[i] == kJitErrorLog) log = static_cast<char*>(values[i]);
      if (options[i] == kJitErrorLogBytes) log_bytes = reinterpret_cast<uintptr_t>(values[i]);
    }
    try {
      const char& text = wanted(static_cast<const char*>(image), "image");
      wanted(module, "module") = d.modules.add(load_module(&text, d.machine, d.current().device));
    } catch (const Failure& failure) {
      if (log && log_bytes) std::snprintf(log, log_bytes, "%s", failure.what());
      throw;
    }
  });
}

LORA_EDGE_STANDIN_API cuModuleUnload(CUmodule module) {
  return call("cuModuleUnload", kInit | kContext | kSynchronous,
              [&](Driver& d) { d.modules.remove(module, "module"); });
}

LORA_EDGE_STANDIN_API cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  return call("cuModuleGetFunction", kInit | kContext, [&](Driver& d) {
    auto& functions = d.modules.get(module, "module").functions;
    const auto found = functions.find(&wanted(name, "name"));
    if (found == functions.end()) fail(CUDA_ERROR_NOT_FOUND, "no kernel ", name, " in the module's text and here");
    wanted(function, "function") = &found->second;
  });
}

LORA_EDGE_STANDIN_API cuFuncGetAttribute(int* value, int attribute, CUfunction function) {
  return call("cuFuncGetAttribute", kInit | kContext, [&](Driver& d) {
    const Function& f = d.function(function);
    int& v = wanted(value, "value");
    switch (attribute) {
      case kFunctionMaxThreads: v = f.kernel->most_threads; break;
      case kFunctionSharedBytes: v = static_cast<int>(f.static_shared); break;
      case kFunctionConstBytes:
      case kFunctionLocalBytes: v = 0; break;
      case kFunctionRegisters:
        v = std::min(255, 65536 / f.kernel->most_threads);
        break;  // what the threads leave room for
      case kFunctionPtxVersion: v = f.ptx; break;
      case kFunctionBinaryVersion: v = d.machine.sm(); break;
      case kFunctionMaxDynamicShared: v = static_cast<int>(f.dynamic_limit); break;
      default: fail(CUDA_ERROR_INVALID_VALUE, "the stand-in has no function attribute ", attribute);
    }
  });
}

LORA_EDGE_STANDIN_API cuFuncSetAttribute(CUfunction function, int attribute, int value) {
  return call("cuFuncSetAttribute", kInit | kContext, [&](Driver& d) {
    Function& f = d.function(function);
    const int most = d.machine.shared_optin() - static_cast<int>(f.static_shared);
    if (attribute != kFunctionMaxDynamicShared || value < 0 || value > most)
      fail(CUDA_ERROR_INVALID_VALUE, f.kernel->name, ": attribute ", attribute, " can't be ", value,
           "; dynamic shared memory: up to ", most);
    f.dynamic_limit = static_cast<size_t>(value);
  });
}

static const struct {
  CUresult code;
  const char *name, *text;
} kErrors[] = {
#define ERROR(name, text) {name, #name, text}
    ERROR(CUDA_SUCCESS, "no error"),
    ERROR(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    ERROR(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    ERROR(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    ERROR(CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER, "API call is not supported in the driver"),
    ERROR(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    ERROR(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    ERROR(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    ERROR(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for the device"),
    ERROR(CUDA_ERROR_INVALID_PTX, "a PTX compilation failed"),
    ERROR(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "the PTX is of an unsupported version"),
    ERROR(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    ERROR(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    ERROR(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "memory is already mapped or locked"),
    ERROR(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "memory is not mapped"),
    ERROR(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address"),
    ERROR(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted during a capture"),
    ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "a previous error invalidated a capture"),
    ERROR(CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event of a capture"),
    ERROR(CUDA_ERROR_UNKNOWN, "unknown error"),
#undef ERROR
};

static CUresult error_text(const char* function, CUresult code, const char** text, bool name) {
  return call(function, kNothing, [&](Driver&) {
    wanted(text, "text") = nullptr;
    for (const auto& error : kErrors) {
      if (error.code == code) *text = name ? error.name : error.text;
    }
    if (!*text) fail(CUDA_ERROR_INVALID_VALUE, "no error ", static_cast<int>(code));
  });
}

LORA_EDGE_STANDIN_API cuGetErrorName(CUresult code, const char** text) {
  return error_text("cuGetErrorName", code, text, true);
}
LORA_EDGE_STANDIN_API cuGetErrorString(CUresult code, const char** text) {
  return error_text("cuGetErrorString", code, text, false);
}
