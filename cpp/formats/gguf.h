// GGUF v2 and v3: parse, validate, hand out views into the mapped file; nothing is copied but names.
// Format: ggml's docs/gguf.md. Every count, length, offset, type and dimension is checked before it is used.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/mapped_file.h"
#include "formats/blocks.h"

namespace lora_edge {

enum class GgufType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12
};

// A view of an array in the file: `count` elements of `type` (never array) from `data`, strings length-prefixed (u64).
struct GgufArray {
  GgufType type;
  uint64_t count;
  const uint8_t* data;
  std::vector<std::string_view> strings() const;  // type must be string
};

using GgufValue = std::variant<uint64_t, int64_t, double, bool, std::string_view, GgufArray>;

struct GgufTensor {
  std::string name;
  std::vector<uint64_t> shape;  // numpy order: slowest dimension first
  uint32_t type;                // ggml's type number
  std::string type_name;
  const uint8_t* data;
  uint64_t n_bytes;

  uint64_t n_elements() const;
};

class GgufFile {
 public:
  explicit GgufFile(const FileSource& source);

  const std::string& path() const { return file_.path(); }
  uint64_t size() const { return file_.size(); }
  uint32_t version() const { return version_; }
  const std::vector<std::pair<std::string, GgufValue>>& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }

  const GgufValue* find_value(const std::string& key) const;     // nullptr when absent
  const GgufTensor* find_tensor(const std::string& name) const;  // nullptr when absent

  // Gives memory back to the system that was read from the file and isn't needed soon: see MappedFile.
  void let_go(const uint8_t* begin, size_t n_bytes) const { file_.let_go(begin, n_bytes); }

  // A weight that the runtime can use; InputError names the tensor and its type otherwise.
  DType dtype(const GgufTensor& tensor) const;

 private:
  void parse();

  MappedFile file_;
  uint32_t version_ = 0;
  std::vector<std::pair<std::string, GgufValue>> metadata_;
  std::unordered_map<std::string, size_t> value_index_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, size_t> tensor_index_;
};

}  // namespace lora_edge
