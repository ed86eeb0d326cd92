// What the bind_*.cpp files share.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace lora_edge {

namespace py = pybind11;

void bind_gguf(py::module_& m);
void bind_model(py::module_& m);
void bind_sampler(py::module_& m);

}  // namespace lora_edge
