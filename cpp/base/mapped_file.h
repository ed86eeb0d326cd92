// A whole file, mapped read-only, or bytes that are in memory already.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lora_edge {

// What to read: the file at `path`, or, where `data` isn't null, `size` bytes from there under the name `path`. Such
// bytes must outlive the reader and start at a multiple of 8.
struct FileSource {
  std::string path;
  const uint8_t* data = nullptr;
  size_t size = 0;
};

class MappedFile {
 public:
  // SystemError when it cannot be opened, InputError when it is empty or no regular file.
  explicit MappedFile(const FileSource& source);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }
  // Gives the whole pages of [begin, begin + n_bytes) back to the system; who reads them again gets them from the file.
  void let_go(const uint8_t* begin, size_t n_bytes) const;

 private:
  void map(int fd);
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  bool mapped_ = false;
};

}  // namespace lora_edge
