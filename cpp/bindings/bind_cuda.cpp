#include "backend/cuda/context.h"
#include "backend/cuda/probe.h"
#include "backend/cuda/self_test.h"
#include "bindings/bindings.h"

namespace lora_edge {
namespace {

py::list cuda_devices() {
  py::list out;
  for (const cuda::DeviceInfo& info : cuda::devices()) {
    py::dict d;
    d["index"] = info.index;
    d["name"] = info.name;
    d["capability"] = py::make_tuple(info.capability / 10, info.capability % 10);
    d["n_bytes"] = info.n_bytes;
    d["processors"] = info.processors;
    d["integrated"] = info.integrated;
    out.append(d);
  }
  return out;
}

// The driver's version, or why there is none.
py::tuple cuda_driver() {
  std::string why;
  const cuda::Driver* driver = cuda::find_driver(&why);
  return py::make_tuple(driver ? driver->version : 0, why);
}

}  // namespace

void bind_cuda(py::module_& m) {
  using Released = py::call_guard<py::gil_scoped_release>;
  m.def("cuda_driver", cuda_driver);
  m.def("cuda_devices", cuda_devices);
  m.def("cuda_self_test", cuda_self_test, py::arg("index"), Released());
  m.def("cuda_copy_bandwidth", cuda::copy_bandwidth, py::arg("index"), py::arg("seconds"), Released());
  m.def("cuda_int8_peak", cuda::int8_peak, py::arg("index"), py::arg("seconds"), Released());
}

}  // namespace lora_edge
