// A whole file, mapped read-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lora_edge {

class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // SystemError when it cannot be opened, InputError when empty
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lora_edge
