#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace lora_edge::standin {

#if defined(__x86_64__) && defined(PKEY_DISABLE_ACCESS)
static const int device_key = pkey_alloc(0, PKEY_DISABLE_ACCESS);

DeviceAccess::DeviceAccess() {
  if (device_key >= 0) pkey_set(device_key, 0);
}
DeviceAccess::~DeviceAccess() {
  if (device_key >= 0) pkey_set(device_key, PKEY_DISABLE_ACCESS);
}
static bool open_for_device(void* start, size_t bytes) {
  return pkey_mprotect(start, bytes, PROT_READ | PROT_WRITE, device_key) == 0;  // -1 is no key
}
#else
DeviceAccess::DeviceAccess() {}
DeviceAccess::~DeviceAccess() {}
static bool open_for_device(void* start, size_t bytes) { return mprotect(start, bytes, PROT_READ | PROT_WRITE) == 0; }
#endif

constexpr size_t kRounding = 256;
constexpr size_t kFreedMappings = 1000;

uintptr_t Memory::map_piece(Kind kind, size_t bytes, int device) {
  if (bytes == 0) fail(CUDA_ERROR_INVALID_VALUE, "an allocation of 0 bytes");
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t rounded = (bytes + kRounding - 1) / kRounding * kRounding;
  const size_t body = (rounded + page - 1) / page * page, size = body + 2 * page;
  void* map = bytes > SIZE_MAX / 2 ? MAP_FAILED
                                   : mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  auto* start = static_cast<uint8_t*>(map) + page;
  const bool mapped = map != MAP_FAILED && (kind == Kind::device ? open_for_device(start, body)
                                                                 : mprotect(start, body, PROT_READ | PROT_WRITE) == 0);
  if (!mapped) fail(CUDA_ERROR_OUT_OF_MEMORY, "the host can't map ", bytes, " bytes");
  std::memset(start, 0xff, body);
  const auto p = reinterpret_cast<uintptr_t>(start + body - rounded);
  pieces_[p] = {kind, bytes, device, map, size};
  return p;
}

void Memory::unmap_piece(Pieces::iterator piece) {
  const Piece gone = piece->second;
  pieces_.erase(piece);
  if (!gone.map) return;
  mmap(gone.map, gone.map_bytes, PROT_NONE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  freed_.emplace_back(gone.map, gone.map_bytes);
  if (freed_.size() <= kFreedMappings) return;
  munmap(freed_.front().first, freed_.front().second);
  freed_.pop_front();
}

uintptr_t Memory::allocate(size_t bytes, int device, size_t most) {
  const size_t already = used(device);
  if (bytes > most || already > most - bytes)
    fail(CUDA_ERROR_OUT_OF_MEMORY, bytes, " bytes beside ", already, " of ", most);
  return map_piece(Kind::device, bytes, device);
}

void* Memory::allocate_host(size_t bytes, int device) {
  return reinterpret_cast<void*>(map_piece(Kind::host, bytes, device));
}

void Memory::register_host(void* p, size_t bytes, int device) {
  const auto begin = reinterpret_cast<uintptr_t>(p);
  if (!p || bytes == 0) fail(CUDA_ERROR_INVALID_VALUE, bytes, " bytes at ", p, " can't be registered");
  for (const auto& [start, piece] : pieces_) {
    if (start < begin + bytes && begin < start + piece.bytes)
      fail(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, bytes, " bytes at ", p, " hold some that are registered");
  }
  pieces_[begin] = {Kind::registered, bytes, device, nullptr, 0};
}

Memory::Pieces::iterator Memory::piece_from(uintptr_t p, Kind kind, CUresult otherwise, const char* what) {
  const auto piece = pieces_.find(p);
  if (piece == pieces_.end() || piece->second.kind != kind)
    fail(otherwise, "0x", std::hex, p, " is not the start of ", what);
  return piece;
}

void Memory::free(uintptr_t p) {
  if (p) unmap_piece(piece_from(p, Kind::device, CUDA_ERROR_INVALID_VALUE, "live device memory"));
}

void Memory::free_host(void* p) {
  if (p)
    unmap_piece(piece_from(reinterpret_cast<uintptr_t>(p), Kind::host, CUDA_ERROR_INVALID_VALUE,
                           "live host memory of the driver"));
}

void Memory::unregister_host(void* p) {
  unmap_piece(piece_from(reinterpret_cast<uintptr_t>(p), Kind::registered, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
                         "registered memory"));
}

void Memory::free_all(int device) {
  for (auto piece = pieces_.begin(); piece != pieces_.end();) {
    const auto next = std::next(piece);
    if (piece->second.device == device) unmap_piece(piece);
    piece = next;
  }
}

size_t Memory::used(int device) const {
  size_t sum = 0;
  for (const auto& [start, piece] : pieces_) {
    if (piece.kind == Kind::device && piece.device == device) sum += piece.bytes;
  }
  return sum;
}

const Memory::Pieces::value_type* Memory::piece_at(uintptr_t p) const {
  auto piece = pieces_.upper_bound(p);
  if (piece == pieces_.begin()) return nullptr;
  --piece;
  return p - piece->first < piece->second.bytes ? &*piece : nullptr;
}

uintptr_t Memory::device_address(void* p) const {
  const auto address = reinterpret_cast<uintptr_t>(p);
  const auto* piece = piece_at(address);
  if (!piece || piece->second.kind == Kind::device)
    fail(CUDA_ERROR_INVALID_VALUE, "host memory at ", p, " isn't known to the driver");
  return address;
}

void Memory::check_device(uintptr_t p, size_t bytes) const {
  const auto* piece = piece_at(p);
  if (!piece || bytes > piece->second.bytes - (p - piece->first))
    fail(CUDA_ERROR_INVALID_VALUE, bytes, " bytes at 0x", std::hex, p, std::dec, " are not in live device memory",
         piece ? concat(": of its ", piece->second.bytes, " bytes they begin at ", p - piece->first) : std::string());
}

void Memory::check_host(const void* p, size_t bytes) const {
  const auto* piece = piece_at(reinterpret_cast<uintptr_t>(p));
  if (!p || (piece && piece->second.kind == Kind::device))
    fail(CUDA_ERROR_INVALID_VALUE, bytes, " bytes at ", p, " are not the host's");
}

}  // namespace lora_edge::standin
