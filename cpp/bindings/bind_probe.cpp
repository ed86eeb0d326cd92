#include "backend/probe.h"
#include "bindings/bindings.h"

namespace lora_edge {

void bind_probe(py::module_& m) {
  using Released = py::call_guard<py::gil_scoped_release>;
  m.def("probe_read_bandwidth", read_bandwidth, py::arg("threads"), py::arg("seconds"), Released());
  m.def("probe_int8_peak", int8_peak, py::arg("threads"), py::arg("seconds"), Released());
  m.def("probe_matmul_q8", matmul_q8, py::arg("m"), py::arg("n"), py::arg("k"), py::arg("threads"), py::arg("seconds"),
        Released());
}

}  // namespace lora_edge
