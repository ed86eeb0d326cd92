#include "backend/cuda/context.h"

#include <stdexcept>

#include "backend/cuda/images.h"
#include "base/error.h"

namespace lora_edge::cuda {
namespace {

// CUdevice_attribute
constexpr int kProcessors = 16, kIntegrated = 18, kMajor = 75, kMinor = 76;
constexpr unsigned kNonBlocking = 1;
constexpr size_t kPlainShared = 48 << 10;  // bytes of shared memory that need no opting in
constexpr int kMostDynamicShared = 8;      // CUfunction_attribute

DeviceInfo info_of(const Driver& driver, int index) {
  int device = 0, major = 0, minor = 0, integrated = 0;
  char name[128] = {};
  DeviceInfo info{};
  info.index = index;
  driver.check(driver.device_get(&device, index), "cuDeviceGet");
  driver.check(driver.device_name(name, sizeof(name) - 1, device), "cuDeviceGetName");
  driver.check(driver.device_attribute(&major, kMajor, device), "cuDeviceGetAttribute");
  driver.check(driver.device_attribute(&minor, kMinor, device), "cuDeviceGetAttribute");
  driver.check(driver.device_attribute(&info.processors, kProcessors, device), "cuDeviceGetAttribute");
  driver.check(driver.device_attribute(&integrated, kIntegrated, device), "cuDeviceGetAttribute");
  driver.check(driver.device_memory(&info.n_bytes, device), "cuDeviceTotalMem");
  info.name = name;
  info.capability = 10 * major + minor;
  info.integrated = integrated != 0;
  return info;
}

Address address(const void* data) { return static_cast<Address>(reinterpret_cast<uintptr_t>(data)); }

}  // namespace

std::vector<DeviceInfo> devices() {
  std::vector<DeviceInfo> found;
  const Driver* driver = find_driver(nullptr);
  int count = 0;
  if (!driver || driver->device_count(&count) != 0) return found;
  for (int i = 0; i < count; ++i) found.push_back(info_of(*driver, i));
  return found;
}

Context::Context(int index) {
  std::string why;
  driver_ = find_driver(&why);
  if (!driver_) throw std::runtime_error("[cuda] " + why);
  int count = 0, device = 0;
  driver_->check(driver_->device_count(&count), "cuDeviceGetCount");
  if (index < 0 || index >= count)
    throw std::runtime_error(concat("[cuda] there is no device cuda:", index, "; the driver has ", count));
  info_ = info_of(*driver_, index);
  driver_->check(driver_->device_get(&device, index), "cuDeviceGet");
  driver_->check(driver_->context_retain(&context_, device), "cuDevicePrimaryCtxRetain");
  try {
    use();
    driver_->check(driver_->stream_create(&stream_, kNonBlocking), "cuStreamCreate");
    launches_ = std::make_unique<Launches>(*driver_, stream_);
    load_images();
  } catch (...) {
    driver_->context_release(device);
    throw;
  }
}

Context::~Context() {
  driver_->context_set(context_);
  driver_->stream_wait(stream_);
  launches_.reset();
  for (Handle module : modules_) driver_->module_unload(module);
  driver_->stream_destroy(stream_);
  int device = 0;
  if (driver_->device_get(&device, info_.index) == 0) driver_->context_release(device);
}

void Context::use() const { driver_->check(driver_->context_set(context_), "cuCtxSetCurrent"); }

// Of each file the newest generation that the device runs and the driver understands.
void Context::load_images() {
  int count = 0;
  const Image* all = images(&count);
  std::string done;
  for (int i = 0; i < count; ++i) {
    if (all[i].file == done || all[i].capability > info_.capability) continue;
    Handle module = nullptr;
    const Result result = driver_->module_load(&module, all[i].text, 0, nullptr, nullptr);
    const bool last = i + 1 == count || std::string(all[i + 1].file) != all[i].file;
    if (result == 0) {
      modules_.push_back(module);
      done = all[i].file;
    } else if (last || (result != kNoImage && result != kUnsupportedPtx && result != kInvalidPtx)) {
      driver_->check(result, concat("the driver (CUDA ", driver_->version / 1000, ".", driver_->version % 1000 / 10,
                                    ") takes no kernels of '", all[i].file, "' for '", info_.name, "'")
                                 .c_str());
    }
  }
  if (modules_.empty())
    throw std::runtime_error(concat("[cuda] '", info_.name, "' has compute capability ", info_.capability / 10, ".",
                                    info_.capability % 10, "; the kernels need 5.3"));
}

Context::Function& Context::find(const std::string& kernel) {
  const auto found = functions_.find(kernel);
  if (found != functions_.end()) return found->second;
  Function made{nullptr, kPlainShared};
  for (Handle module : modules_)
    if (!made.handle && driver_->module_function(&made.handle, module, kernel.c_str()) != 0) made.handle = nullptr;
  return functions_[kernel] = made;
}

void* Context::allocate(size_t n_bytes) {
  if (n_bytes == 0) return nullptr;
  use();
  Address data = 0;
  const Result result = driver_->memory_allocate(&data, n_bytes);
  if (result == kOutOfMemory) {
    size_t left = 0, all = 0;
    driver_->memory_info(&left, &all);
    throw std::runtime_error(concat("[cuda] ", n_bytes >> 20, " MiB don't fit on '", info_.name, "': ", left >> 20,
                                    " of ", all >> 20,
                                    " MiB are free; take a smaller model or context (n_ctx), or "
                                    "device='cpu'"));
  }
  driver_->check(result, "cuMemAlloc");
  return reinterpret_cast<void*>(static_cast<uintptr_t>(data));
}

template <class Call>
void Context::in_order(const char* name, const Call& call) {
  std::lock_guard<std::mutex> lock(mutex_);
  use();
  launches_->submit();
  driver_->check(call(), name);
}

void Context::release(void* data) noexcept {
  if (!data) return;
  try {
    in_order("cuStreamSynchronize", [&] { return driver_->stream_wait(stream_); });
  } catch (const std::exception&) {  // whoever launched hears of it at the next call: a broken context stays broken
  }
  driver_->memory_free(address(data));
}

void Context::copy_in(void* to, const void* from, size_t n_bytes) {
  if (n_bytes == 0) return;
  in_order("cuMemcpyHtoD", [&] { return driver_->copy_in(address(to), from, n_bytes, stream_); });
}

void Context::copy_out(void* to, const void* from, size_t n_bytes) {
  if (n_bytes == 0) return;
  in_order("cuMemcpyDtoH", [&] {
    const Result result = driver_->copy_out(to, address(from), n_bytes, stream_);
    return result != 0 ? result : driver_->stream_wait(stream_);
  });
}

void Context::copy_within(void* to, const void* from, size_t n_bytes) {
  if (n_bytes == 0) return;
  in_order("cuMemcpyDtoD", [&] { return driver_->copy_within(address(to), address(from), n_bytes, stream_); });
}

void Context::fill_zeros(void* data, size_t n_bytes) {
  if (n_bytes == 0) return;
  in_order("cuMemsetD8", [&] { return driver_->fill(address(data), 0, n_bytes, stream_); });
}

void Context::wait() {
  in_order("cuStreamSynchronize", [&] { return driver_->stream_wait(stream_); });
}

void Context::launch_with(const char* kernel, const void* args, size_t n_bytes, Grid grid, int threads, size_t shared) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  use();
  Function& f = find(kernel);
  if (!f.handle) throw std::runtime_error(concat("[cuda] no kernel '", kernel, "' in this build"));
  if (shared > f.shared) {
    driver_->check(driver_->function_set(f.handle, kMostDynamicShared, static_cast<int>(shared)), "cuFuncSetAttribute");
    f.shared = shared;
  }
  launches_->add(f.handle, kernel, args, n_bytes, grid, threads, shared);
}

}  // namespace lora_edge::cuda
