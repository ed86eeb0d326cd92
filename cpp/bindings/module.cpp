// The extension module lora_edge._core.
#include "bindings/bindings.h"

#include "base/error.h"
#include "kernels/kernels.h"

namespace lora_edge {
namespace {

py::dict build_info() {
  int count = 0;
  const TableInfo* tables = all_tables(&count);
  py::list compiled, runnable;
  for (int i = 0; i < count; ++i) {
    compiled.append(tables[i].name);
    if (tables[i].runs_here) runnable.append(tables[i].name);
  }
  py::dict info;
  info["isa"] = active_table().name;
  info["isas_compiled"] = compiled;
  info["isas_runnable"] = runnable;
  info["compiler"] = __VERSION__;
  info["version"] = LORA_EDGE_VERSION;
  return info;
}

}  // namespace
}  // namespace lora_edge

PYBIND11_MODULE(_core, m) {
  using namespace lora_edge;
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const SystemError& e) {  // OSError(errno, text, path) picks FileNotFoundError and the like by itself
      const py::object error = py::handle(PyExc_OSError)(e.code, e.what(), e.path);
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
    }
  });
  bind_gguf(m);
  bind_model(m);
  bind_sampler(m);
  m.def("build_info", build_info);
}
