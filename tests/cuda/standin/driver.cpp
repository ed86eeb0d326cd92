#include "driver.h"

#include <pthread.h>

#include <algorithm>
#include <mutex>

namespace lora_edge::standin {

// Not thread_local: in this library that is shared memory of kernels.
static pthread_key_t current_key() {
  static const pthread_key_t key = [] {
    pthread_key_t made;
    pthread_key_create(&made, nullptr);
    return made;
  }();
  return key;
}

Context* current_context() { return static_cast<Context*>(pthread_getspecific(current_key())); }
void set_current_context(Context* context) { pthread_setspecific(current_key(), context); }

Context& Driver::context_of(int device) {
  for (Context& c : contexts) {
    if (c.device == device) return c;
  }
  fail(CUDA_ERROR_INVALID_DEVICE, "there is no device ", device);
}

Context& Driver::current() {
  Context* context = current_context();
  for (Context& c : contexts) {
    if (&c == context && c.retained) return c;
  }
  fail(CUDA_ERROR_INVALID_CONTEXT, "this thread has no current context");
}

Stream& Driver::stream(CUstream handle) {
  if (!handle) return current().stream;
  Stream& s = streams.get(handle, "stream");
  if (s.device != current().device) fail(CUDA_ERROR_INVALID_CONTEXT, "a stream of another device");
  return s;
}

Function& Driver::function(CUfunction handle) {
  for (Module* m : modules) {
    for (auto& [name, f] : m->functions) {
      if (&f == handle) return f;
    }
  }
  fail(CUDA_ERROR_INVALID_HANDLE, static_cast<const void*>(handle), " is no function of a loaded module");
}

void Driver::submit(CUstream handle, const Work& work) {
  Stream& s = stream(handle);
  if (!s.capturing) return work(false);
  if (s.invalid) fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "this stream's capture has failed already");
  s.captured.push_back(work);
}

void Driver::not_in_capture() {
  bool forbidden = false;
  for (Stream* s : capturing) {
    const bool here = s->by == std::this_thread::get_id();
    if (s->mode == kCaptureGlobal || (s->mode == kCaptureThreadLocal && here)) forbidden = s->invalid = true;
  }
  if (forbidden) fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "not while a stream is captured");
}

CUresult call(const char* name, unsigned needs, const std::function<void(Driver&)>& body) {
  static std::mutex mutex;
  static auto* driver = new Driver;  // never destroyed: threads may call at exit
  const std::lock_guard<std::mutex> lock(mutex);
  const DeviceAccess access;
  ++calls()[name];
  try {
    if ((needs & kInit) && !driver->initialised) fail(CUDA_ERROR_NOT_INITIALIZED, "cuInit has not been called");
    if (needs & kContext) {
      const CUresult broken = driver->current().broken;
      if (broken) fail(broken, "a kernel failed in this context before");
    }
    if (needs & kSynchronous) driver->not_in_capture();
    body(*driver);
    return CUDA_SUCCESS;
  } catch (const Failure& failure) {
    log_failure(concat(name, ": ", failure.code, ": ", failure.what()));
    return failure.code;
  } catch (const std::exception& failure) {
    log_failure(concat(name, ": ", failure.what()));
    return CUDA_ERROR_UNKNOWN;
  }
}

}  // namespace lora_edge::standin
