// What the bind_*.cpp files share.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace lora_edge {

namespace py = pybind11;

class Model;
using ModelClass = py::class_<Model, std::shared_ptr<Model>>;

// The bytes of a path given as str, bytes or os.PathLike, whatever bytes its name holds. ValueError: a NUL in it.
inline std::string path_bytes(const py::object& path) {
  PyObject* bytes = nullptr;
  if (!PyUnicode_FSConverter(path.ptr(), &bytes)) throw py::error_already_set();
  return py::reinterpret_steal<py::bytes>(bytes);
}

struct Config;
// The choices and constants of a model's layers that its shape doesn't say, as Config names them.
py::dict block(const Config& config);

void bind_adapter(py::module_& m);
void bind_gguf(py::module_& m);
void bind_cuda(py::module_& m);
void bind_model(py::module_& m);
void bind_probe(py::module_& m);
void bind_products(ModelClass& model);
void bind_sampler(py::module_& m);

}  // namespace lora_edge
