#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace lora_edge {

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw SystemError(errno, std::strerror(errno), path);
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    const int code = errno;
    ::close(fd);
    throw SystemError(code, std::strerror(code), path);
  }
  if (S_ISDIR(info.st_mode)) {
    ::close(fd);
    throw SystemError(EISDIR, std::strerror(EISDIR), path);
  }
  if (info.st_size <= 0) {
    ::close(fd);
    fail_input("[file] '", path, "' is empty");
  }
  size_ = static_cast<size_t>(info.st_size);
  void* view = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  const int code = errno;
  ::close(fd);
  if (view == MAP_FAILED) throw SystemError(code, std::strerror(code), path);
  data_ = static_cast<const uint8_t*>(view);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<uint8_t*>(data_), size_);
}

}  // namespace lora_edge
