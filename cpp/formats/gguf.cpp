#include "formats/gguf.h"

#include <algorithm>

#include "base/error.h"

namespace lora_edge {
namespace {

// ggml's tensor types: elements per block, bytes per block. A type that is not listed is refused: its size is unknown.
struct TypeInfo {
  uint32_t id;
  const char* name;
  uint32_t block, bytes;
};
constexpr TypeInfo kTypes[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
};

const TypeInfo* find_type(uint32_t id) {
  for (const TypeInfo& t : kTypes)
    if (t.id == id) return &t;
  return nullptr;
}

uint32_t scalar_size(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean: return 1;
    case GgufType::u16:
    case GgufType::i16: return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32: return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64: return 8;
    default: return 0;
  }
}

constexpr uint64_t kMaxName = 1024;        // bytes; the names in use are shorter than 64
constexpr uint64_t kMaxEntries = 1 << 16;  // metadata entries, and tensors: each costs some 300 bytes of memory
constexpr uint64_t kMaxAlignment = 1 << 20;

class Cursor {
 public:
  Cursor(const uint8_t* data, uint64_t size) : data_(data), size_(size) {}

  uint64_t pos() const { return pos_; }
  uint64_t left() const { return size_ - pos_; }
  const uint8_t* here() const { return data_ + pos_; }

  const uint8_t* take(uint64_t n, const std::string& what) {
    if (n > left())
      fail_input(what, ": ", n, " bytes at offset ", pos_, " reach past the end of the file (", size_,
                 " bytes): is it truncated?");
    const uint8_t* p = here();
    pos_ += n;
    return p;
  }

  template <class T>
  T read(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what), sizeof(T));
    return value;
  }

  std::string_view string(const std::string& what) {
    const uint64_t n = read<uint64_t>(what);
    return {reinterpret_cast<const char*>(take(n, what)), static_cast<size_t>(n)};
  }

 private:
  const uint8_t* data_;
  uint64_t size_, pos_ = 0;
};

GgufArray read_array(Cursor& in, const std::string& what) {
  const auto type = static_cast<GgufType>(in.read<uint32_t>(what));
  const uint64_t count = in.read<uint64_t>(what);
  GgufArray array{type, count, in.here()};
  if (type == GgufType::string) {
    if (count > in.left() / 8) fail_input(what, ": ", count, " strings don't fit in the file: is it truncated?");
    for (uint64_t i = 0; i < count; ++i) in.string(what);
    return array;
  }
  const uint32_t size = scalar_size(type);
  if (size == 0) fail_input(what, ": arrays of type ", static_cast<uint32_t>(type), " are not supported");
  if (count > in.left() / size) fail_input(what, ": ", count, " elements don't fit in the file: is it truncated?");
  in.take(count * size, what);
  return array;
}

GgufValue read_value(Cursor& in, const std::string& what) {
  const uint32_t id = in.read<uint32_t>(what);
  switch (static_cast<GgufType>(id)) {
    case GgufType::u8: return uint64_t{in.read<uint8_t>(what)};
    case GgufType::u16: return uint64_t{in.read<uint16_t>(what)};
    case GgufType::u32: return uint64_t{in.read<uint32_t>(what)};
    case GgufType::u64: return in.read<uint64_t>(what);
    case GgufType::i8: return int64_t{in.read<int8_t>(what)};
    case GgufType::i16: return int64_t{in.read<int16_t>(what)};
    case GgufType::i32: return int64_t{in.read<int32_t>(what)};
    case GgufType::i64: return in.read<int64_t>(what);
    case GgufType::f32: return double{in.read<float>(what)};
    case GgufType::f64: return in.read<double>(what);
    case GgufType::boolean: return in.read<uint8_t>(what) != 0;
    case GgufType::string: return in.string(what);
    case GgufType::array: return read_array(in, what);
  }
  fail_input(what, ": unknown value type ", id);
}

std::string read_name(Cursor& in, const std::string& what) {
  const std::string_view name = in.string(what);
  if (name.empty() || name.size() > kMaxName)
    fail_input(what, ": a name of ", name.size(), " bytes (1 to ", kMaxName, " are possible)");
  return std::string(name);
}

GgufTensor read_tensor_info(Cursor& in, uint64_t index, uint64_t* offset) {
  GgufTensor tensor;
  tensor.name = read_name(in, concat("name of tensor ", index));
  const std::string what = concat("tensor '", clip(tensor.name), "'");
  const uint32_t n_dims = in.read<uint32_t>(what);
  if (n_dims < 1 || n_dims > 4) fail_input(what, ": ", n_dims, " dimensions (1 to 4 are possible)");
  uint64_t elements = 1;
  tensor.shape.resize(n_dims);
  for (uint32_t d = 0; d < n_dims; ++d) {
    const uint64_t dim = in.read<uint64_t>(what);
    if (dim == 0 || dim > (uint64_t{1} << 40) / elements) fail_input(what, ": dimension ", d, " is ", dim);
    elements *= dim;
    tensor.shape[n_dims - 1 - d] = dim;  // the file lists the fastest first
  }
  tensor.type = in.read<uint32_t>(what);
  const TypeInfo* type = find_type(tensor.type);
  if (!type) fail_input(what, ": unknown tensor type ", tensor.type);
  tensor.type_name = type->name;
  if (tensor.shape.back() % type->block != 0)
    fail_input(what, ": rows of ", tensor.shape.back(), " elements are no multiple of ", type->name, "'s block of ",
               type->block);
  tensor.n_bytes = elements / type->block * type->bytes;
  *offset = in.read<uint64_t>(what);
  return tensor;
}

// No two tensors may share bytes: a small file could otherwise claim the work and the memory of a huge one.
void check_overlap(const std::vector<GgufTensor>& tensors) {
  std::vector<const GgufTensor*> order;
  for (const GgufTensor& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](const GgufTensor* a, const GgufTensor* b) { return a->data < b->data; });
  for (size_t i = 1; i < order.size(); ++i)
    if (order[i]->data < order[i - 1]->data + order[i - 1]->n_bytes)
      fail_input("tensors '", clip(order[i - 1]->name), "' and '", clip(order[i]->name), "' overlap");
}

}  // namespace

std::vector<std::string_view> GgufArray::strings() const {
  std::vector<std::string_view> out;
  out.reserve(count);
  const uint8_t* p = data;
  for (uint64_t i = 0; i < count; ++i) {  // bounds were checked when the file was parsed
    uint64_t n;
    std::memcpy(&n, p, 8);
    out.emplace_back(reinterpret_cast<const char*>(p + 8), static_cast<size_t>(n));
    p += 8 + n;
  }
  return out;
}

uint64_t GgufTensor::n_elements() const {
  uint64_t n = 1;
  for (uint64_t d : shape) n *= d;
  return n;
}

GgufFile::GgufFile(const FileSource& source) : file_(source) {
  try {
    parse();
  } catch (const InputError& error) {
    fail_input("[gguf] '", path(), "': ", error.what());
  }
}

void GgufFile::parse() {
  Cursor in(file_.data(), file_.size());
  if (in.left() < 4 || std::memcmp(in.here(), "GGUF", 4) != 0) fail_input("this is not a GGUF file");
  in.take(4, "magic");
  version_ = in.read<uint32_t>("version");
  if (version_ != 0 && (version_ & 0xffff) == 0)
    fail_input("this is a big-endian GGUF file, which is not supported: convert the model for little-endian machines");
  if (version_ != 2 && version_ != 3)
    fail_input("GGUF version ", version_, " is not supported, 2 and 3 are: convert the model with a current converter");
  const uint64_t n_tensors = in.read<uint64_t>("tensor count");
  const uint64_t n_values = in.read<uint64_t>("metadata count");
  // The smallest entries: a value is 8 + 1 + 4 + 1 bytes, a tensor 8 + 1 + 4 + 8 + 4 + 8.
  if (n_values > kMaxEntries || n_values > in.left() / 14)
    fail_input(n_values, " metadata entries don't fit in the file: is it truncated?");
  if (n_tensors > kMaxEntries || n_tensors > in.left() / 33)
    fail_input(n_tensors, " tensors don't fit in the file: is it truncated?");

  for (uint64_t i = 0; i < n_values; ++i) {
    std::string key = read_name(in, concat("key ", i));
    const std::string what = concat("key '", clip(key), "'");
    if (!value_index_.emplace(key, metadata_.size()).second) fail_input(what, " appears twice");
    GgufValue value = read_value(in, what);
    metadata_.emplace_back(std::move(key), std::move(value));
  }
  uint64_t alignment = 32;
  if (const GgufValue* v = find_value("general.alignment")) {
    const auto* a = std::get_if<uint64_t>(v);
    if (!a || *a < 8 || (*a & (*a - 1)) != 0 || *a > kMaxAlignment)
      fail_input("general.alignment must be a power of two from 8 to ", kMaxAlignment);
    alignment = *a;
  }
  std::vector<uint64_t> offsets(n_tensors);
  for (uint64_t i = 0; i < n_tensors; ++i) {
    GgufTensor tensor = read_tensor_info(in, i, &offsets[i]);
    if (!tensor_index_.emplace(tensor.name, i).second) fail_input("tensor '", clip(tensor.name), "' appears twice");
    tensors_.push_back(std::move(tensor));
  }
  const uint64_t start = (in.pos() + alignment - 1) / alignment * alignment;
  for (uint64_t i = 0; i < n_tensors; ++i) {
    GgufTensor& tensor = tensors_[i];
    if (offsets[i] % alignment != 0)
      fail_input("tensor '", clip(tensor.name), "': offset ", offsets[i], " is no multiple of the alignment ",
                 alignment);
    if (start > file_.size() || offsets[i] > file_.size() - start || tensor.n_bytes > file_.size() - start - offsets[i])
      fail_input("tensor '", clip(tensor.name), "': ", tensor.n_bytes, " bytes at offset ", offsets[i],
                 " reach past the end of the file (", file_.size(), " bytes): is it truncated?");
    tensor.data = file_.data() + start + offsets[i];
  }
  check_overlap(tensors_);
}

const GgufValue* GgufFile::find_value(const std::string& key) const {
  const auto it = value_index_.find(key);
  return it == value_index_.end() ? nullptr : &metadata_[it->second].second;
}

const GgufTensor* GgufFile::find_tensor(const std::string& name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

DType GgufFile::dtype(const GgufTensor& tensor) const {
  switch (tensor.type) {
    case 0: return DType::f32;
    case 1: return DType::f16;
    case 2: return DType::q4_0;
    case 3: return DType::q4_1;
    case 6: return DType::q5_0;
    case 7: return DType::q5_1;
    case 8: return DType::q8_0;
    case 10: return DType::q2_k;
    case 11: return DType::q3_k;
    case 12: return DType::q4_k;
    case 13: return DType::q5_k;
    case 14: return DType::q6_k;
    case 20: return DType::iq4_nl;
    case 30: return DType::bf16;
    default:
      fail_input("[gguf] '", path(), "': tensor '", clip(tensor.name), "' has type ", tensor.type_name,
                 ", which is not supported: convert the model with type F32, F16, BF16 or Q8_0, or take a file in "
                 "Q4_0, Q4_K_M or another of Q4_0 to Q6_K");
  }
}

}  // namespace lora_edge
