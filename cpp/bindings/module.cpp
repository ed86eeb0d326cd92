// The extension module lora_edge._core.
#include "base/error.h"
#include "bindings/bindings.h"
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
  info["isas_left_out"] = py::str(LORA_EDGE_LEFT_OUT).attr("split")();  // the compiler was too old for them
#if defined(__clang__)
  info["compiler"] = __VERSION__;  // "Clang 19.1.7 …", perhaps with a vendor's name before it
#else
  info["compiler"] = "GCC " __VERSION__;
#endif
  info["version"] = LORA_EDGE_VERSION;
  return info;
}

// Messages quote names from files, which may hold bytes that are no UTF-8, and control characters.
py::object message(const std::string& text) {
  std::string line;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) {
      line += c;
    } else {
      constexpr char kHex[] = "0123456789abcdef";
      line += {'\\', 'x', kHex[c >> 4 & 15], kHex[c & 15]};
    }
  }
  return py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(line.data(), static_cast<Py_ssize_t>(line.size()), "backslashreplace"));
}

}  // namespace
}  // namespace lora_edge

PYBIND11_MODULE(_core, m) {
  using namespace lora_edge;
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const InputError& e) {
      PyErr_SetObject(PyExc_ValueError, message(e.what()).ptr());
    } catch (const SystemError& e) {  // OSError(errno, text, path) picks FileNotFoundError and the like by itself
      const auto path = py::reinterpret_steal<py::object>(
          PyUnicode_DecodeFSDefaultAndSize(e.path.data(), static_cast<Py_ssize_t>(e.path.size())));
      const py::object error = py::handle(PyExc_OSError)(e.code, e.what(), path);
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
    }
  });
  bind_gguf(m);
  bind_adapter(m);
  bind_cuda(m);
  bind_model(m);
  bind_probe(m);
  bind_sampler(m);
  m.def("build_info", build_info);
}
