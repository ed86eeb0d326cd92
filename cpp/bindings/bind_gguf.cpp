#include <limits>

#include "base/error.h"
#include "bindings/bindings.h"
#include "formats/gguf.h"
#include "kernels/kernels.h"

namespace lora_edge {
namespace {

py::object text(std::string_view s) {
  PyObject* o = PyUnicode_DecodeUTF8(s.data(), static_cast<Py_ssize_t>(s.size()), "surrogateescape");
  if (!o) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(o);
}

const char* numpy_type(GgufType type) {
  switch (type) {
    case GgufType::u8: return "u1";
    case GgufType::i8: return "i1";
    case GgufType::u16: return "<u2";
    case GgufType::i16: return "<i2";
    case GgufType::u32: return "<u4";
    case GgufType::i32: return "<i4";
    case GgufType::f32: return "<f4";
    case GgufType::boolean: return "?";
    case GgufType::u64: return "<u8";
    case GgufType::i64: return "<i8";
    default: return "<f8";
  }
}

struct ToPython {
  py::object operator()(uint64_t v) const { return py::int_(v); }
  py::object operator()(int64_t v) const { return py::int_(v); }
  py::object operator()(double v) const { return py::float_(v); }
  py::object operator()(bool v) const { return py::bool_(v); }
  py::object operator()(std::string_view v) const { return text(v); }
  py::object operator()(const GgufArray& v) const {
    if (v.type == GgufType::string) {
      py::list out(v.count);
      size_t i = 0;
      for (const std::string_view s : v.strings()) out[i++] = text(s);
      return out;
    }
    // Copied: the elements need not be aligned in the file.
    return py::array(py::dtype(numpy_type(v.type)), {static_cast<py::ssize_t>(v.count)}, v.data);
  }
};

py::dict metadata(const GgufFile& file) {
  py::dict out;
  for (const auto& [key, value] : file.metadata()) out[text(key)] = std::visit(ToPython{}, value);
  return out;
}

py::dict tensors(const GgufFile& file) {
  py::dict out;
  for (const GgufTensor& t : file.tensors())
    out[text(t.name)] = py::make_tuple(py::tuple(py::cast(t.shape)), t.type_name, t.n_bytes);
  return out;
}

// A name as metadata() and tensors() give it, back to the file's bytes.
std::string bytes(const py::str& s) {
  PyObject* o = PyUnicode_AsEncodedString(s.ptr(), "utf-8", "surrogateescape");
  if (!o) throw py::error_already_set();
  return py::reinterpret_steal<py::bytes>(o);
}

py::array tensor(const py::object& self, const py::str& key) {
  const std::string name = bytes(key);
  const auto& file = self.cast<const GgufFile&>();
  const GgufTensor* t = file.find_tensor(name);
  if (!t) fail_input("[gguf] '", file.path(), "' has no tensor '", clip(name), "'");
  std::vector<py::ssize_t> shape(t->shape.begin(), t->shape.end());
  const char* type = t->type == 0 ? "<f4" : t->type == 1 ? "<f2" : t->type == 30 ? "<u2" : nullptr;
  if (!type) {
    type = "u1";
    shape.back() = static_cast<py::ssize_t>(t->n_bytes / (t->n_elements() / t->shape.back()));
  }
  py::array view(py::dtype(type), shape, t->data, self);
  view.attr("setflags")(py::arg("write") = false);
  return view;
}

// Rows [first, last) of a tensor of any type that the kernels read, as float32.
py::array_t<float> rows(const GgufFile& file, const py::str& key, size_t first, size_t last) {
  const std::string name = bytes(key);
  const GgufTensor* t = file.find_tensor(name);
  if (!t) fail_input("[gguf] '", file.path(), "' has no tensor '", clip(name), "'");
  const DType type = file.dtype(*t);
  const size_t k = static_cast<size_t>(t->shape.back()), n = static_cast<size_t>(t->n_elements()) / k;
  if (first > last || last > n)
    fail_input("[gguf] tensor '", clip(name), "' has ", n, " rows, not ", first, " to ", last);
  if (k > static_cast<size_t>(std::numeric_limits<int>::max()))
    fail_input("[gguf] tensor '", clip(name), "' has rows of ", k);
  py::array_t<float> out({static_cast<py::ssize_t>(last - first), static_cast<py::ssize_t>(k)});
  float* to = out.mutable_data();
  const py::gil_scoped_release release;
  for (size_t i = first; i < last; ++i, to += k)
    active_table().dequantize[static_cast<int>(type)](t->data + i * row_bytes(type, k), to, static_cast<int>(k));
  return out;
}

}  // namespace

void bind_gguf(py::module_& m) {
  py::class_<GgufFile, std::shared_ptr<GgufFile>>(m, "GgufFile")
      .def(py::init([](const py::object& path) { return std::make_shared<GgufFile>(FileSource{path_bytes(path)}); }),
           py::arg("path"))
      .def_property_readonly("path", [](const GgufFile& f) { return text(f.path()); })
      .def_property_readonly("size", &GgufFile::size)
      .def_property_readonly("version", &GgufFile::version)
      .def("metadata", metadata)
      .def("tensors", tensors)
      .def("tensor", tensor, py::arg("name"))
      .def("rows", rows, py::arg("name"), py::arg("first"), py::arg("last"));
}

}  // namespace lora_edge
