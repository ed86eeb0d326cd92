// Memory of devices and of the host, as the driver hands it out and keeps account of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <utility>

#include "failure.h"

namespace lora_edge::standin {

// While one lives, its thread reaches the memory of devices. Without, such memory crashes whoever takes a device's
// address for one of the host's, where the CPU can tell (x86's protection keys).
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

// An address on the device is one of the host's. What is allocated lies in mappings of its own: NaNs, between
// unreadable pages, its end at the page behind it but for rounding up to 256 bytes, as devices do. Freed mappings stay
// unreadable until many others have been freed.
class Memory {
 public:
  // Device memory, of which `most` bytes may be allocated; memory of the host; the host's own memory, made known.
  uintptr_t allocate(size_t bytes, int device, size_t most);
  void* allocate_host(size_t bytes, int device);
  void register_host(void* p, size_t bytes, int device);

  void free(uintptr_t p);
  void free_host(void* p);
  void unregister_host(void* p);
  void free_all(int device);

  size_t used(int device) const;
  // The device's address of host memory that was allocated or registered here.
  uintptr_t device_address(void* p) const;
  // Failure unless the bytes lie in one live piece of what a device reaches, or in none of a device's.
  void check_device(uintptr_t p, size_t bytes) const;
  void check_host(const void* p, size_t bytes) const;

 private:
  enum class Kind { device, host, registered };
  struct Piece {
    Kind kind;
    size_t bytes;
    int device;
    void* map;  // with its unreadable pages, unless registered
    size_t map_bytes;
  };
  using Pieces = std::map<uintptr_t, Piece>;

  uintptr_t map_piece(Kind kind, size_t bytes, int device);
  void unmap_piece(Pieces::iterator piece);
  const Pieces::value_type* piece_at(uintptr_t p) const;  // the one that holds this address, or null
  Pieces::iterator piece_from(uintptr_t p, Kind kind, CUresult otherwise, const char* what);

  Pieces pieces_;  // by where they begin
  std::deque<std::pair<void*, size_t>> freed_;
};

}  // namespace lora_edge::standin
