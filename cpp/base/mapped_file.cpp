#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace lora_edge {

MappedFile::MappedFile(const FileSource& source) : path_(source.path), data_(source.data), size_(source.size) {
  if (!source.data) {
    const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // or a FIFO would wait for its writer
    if (fd < 0) throw SystemError(errno, std::strerror(errno), path_);
    map(fd);
  }
  if (size_ == 0) fail_input("[file] '", path_, "' is empty");
}

void MappedFile::map(int fd) {
  struct stat info{};
  void* view = nullptr;
  int error = 0;
  if (::fstat(fd, &info) != 0) {
    error = errno;
  } else if (S_ISDIR(info.st_mode)) {
    error = EISDIR;
  } else if (S_ISREG(info.st_mode) && info.st_size > 0) {
    size_ = static_cast<size_t>(info.st_size);
    view = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (view == MAP_FAILED) error = errno;
  }
  ::close(fd);
  if (error) throw SystemError(error, std::strerror(error), path_);
  if (!S_ISREG(info.st_mode)) fail_input("[file] '", path_, "' is not a regular file");
  data_ = static_cast<const uint8_t*>(view);
  mapped_ = view != nullptr;
}

void MappedFile::let_go(const uint8_t* begin, size_t n_bytes) const {
  if (!mapped_) return;
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE)), at = static_cast<size_t>(begin - data_);
  const size_t first = (at + page - 1) / page * page, end = (at + n_bytes) / page * page;
  if (first < end) ::madvise(const_cast<uint8_t*>(data_) + first, end - first, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (mapped_) ::munmap(const_cast<uint8_t*>(data_), size_);
}

}  // namespace lora_edge
