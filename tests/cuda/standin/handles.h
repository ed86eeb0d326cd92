// The objects of one kind that the driver has handed out, so that a stale handle is an error and no crash.
#pragma once

#include <memory>
#include <set>
#include <utility>

#include "failure.h"

namespace lora_edge::standin {

template <class T>
class Handles {
 public:
  T* add(T object) {
    T* handle = new T(std::move(object));
    live_.insert(handle);
    return handle;
  }
  T& get(T* handle, const char* what) const {
    if (!live_.count(handle)) fail(CUDA_ERROR_INVALID_HANDLE, static_cast<const void*>(handle), " is no live ", what);
    return *handle;
  }
  void remove(T* handle, const char* what) {
    get(handle, what);
    live_.erase(handle);
    delete handle;
  }
  void clear(int device) {
    for (auto i = live_.begin(); i != live_.end();) {
      T* handle = *i;
      if (handle->device != device) {
        ++i;
        continue;
      }
      i = live_.erase(i);
      delete handle;
    }
  }

  auto begin() const { return live_.begin(); }
  auto end() const { return live_.end(); }

 private:
  std::set<T*> live_;
};

}  // namespace lora_edge::standin
