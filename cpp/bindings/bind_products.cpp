// The products of single weights: Python's arrays are checked here and used where they lie.
#include <climits>
#include <optional>

#include "base/error.h"
#include "bindings/bindings.h"
#include "runtime/model.h"

namespace lora_edge {
namespace {

using Range = std::optional<std::pair<int, int>>;

std::string shape_text(const py::array& array) { return py::str(py::tuple(array.attr("shape"))).cast<std::string>(); }

// A float32 matrix [m, width] as it lies in memory; `what` names it in errors.
py::array matrix(const std::string& what, const py::handle& object, int width) {
  constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_, kCOrder = py::array::c_style;
  if (!py::isinstance<py::array>(object))
    fail_input("[model] ", what, " is ", Py_TYPE(object.ptr())->tp_name, ", not a numpy array");
  auto array = py::reinterpret_borrow<py::array>(object);
  if (!py::isinstance<py::array_t<float>>(object))
    fail_input("[model] ", what, " is ", py::str(array.dtype()).cast<std::string>(), ", not float32");
  if (array.ndim() != 2 || array.shape(1) != width)
    fail_input("[model] ", what, " has shape ", shape_text(array), "; it must be (m, ", width, ")");
  if ((array.flags() & kCOrder) != kCOrder || (array.flags() & kAligned) != kAligned)
    fail_input("[model] ", what, " is not contiguous in C order: use numpy.ascontiguousarray");
  return array;
}

const float* data_of(const py::array& array) { return static_cast<const float*>(array.data()); }

// The weights of a region, whose depths must be the same.
std::vector<LinearRows> weights_of(const Model& model, const std::vector<std::string>& names, const Range& rows) {
  if (names.empty()) fail_input("[model] no linear is named");
  if (rows && (rows->first < 0 || rows->second <= rows->first))
    fail_input("[model] rows ", rows->first, " to ", rows->second, " are none");
  std::vector<LinearRows> weights;
  for (const std::string& name : names) {
    weights.push_back(rows ? model.linear_rows(name, rows->first, rows->second) : model.linear_rows(name));
    const int k = weights.back().weight.k, first = weights[0].weight.k;
    if (k != first)
      fail_input("[model] '", name, "' takes ", k, " inputs and '", names[0], "' ", first, ": they can't share them");
  }
  return weights;
}

py::list linear(Model& model, const std::vector<std::string>& names, const py::object& x, const Range& rows) {
  const std::vector<LinearRows> weights = weights_of(model, names, rows);
  const py::array in = matrix(concat("x of '", names[0], "'"), x, weights[0].weight.k);
  const auto m = static_cast<size_t>(in.shape(0));
  py::list out;
  std::vector<float*> ys;
  for (const LinearRows& w : weights) {
    py::array_t<float> y({m, static_cast<size_t>(w.weight.n)});
    ys.push_back(y.mutable_data());
    out.append(std::move(y));
  }
  const py::gil_scoped_release release;
  model.linear(weights, data_of(in), m, ys);
  return out;
}

py::array_t<float> input_gradient(Model& model, const std::vector<std::string>& names,
                                  const std::vector<py::object>& dys, const Range& rows) {
  const std::vector<LinearRows> weights = weights_of(model, names, rows);
  if (dys.size() != names.size()) fail_input("[model] ", dys.size(), " gradients of ", names.size(), " linears");
  std::vector<py::array> arrays;  // keeps them
  std::vector<OutputGradient> outputs;
  for (size_t i = 0; i < names.size(); ++i) {
    arrays.push_back(matrix(concat("dy of '", names[i], "'"), dys[i], weights[i].weight.n));
    if (arrays[i].shape(0) != arrays[0].shape(0))
      fail_input("[model] dy of '", names[i], "' has ", arrays[i].shape(0), " rows and that of '", names[0], "' ",
                 arrays[0].shape(0));
    outputs.push_back({&weights[i].weight, data_of(arrays[i])});
  }
  const auto m = static_cast<size_t>(arrays[0].shape(0));
  py::array_t<float> dx({m, static_cast<size_t>(weights[0].weight.k)});
  float* to = dx.mutable_data();
  const py::gil_scoped_release release;
  model.input_gradient(outputs, m, to);
  return dx;
}

py::array_t<float> rows_of(Model& model, const std::string& name, const py::object& ids) {
  const Weight w = model.file_matrix(name);
  const auto given = py::array::ensure(ids);
  if (!given || given.ndim() != 1 || (given.dtype().kind() != 'i' && given.dtype().kind() != 'u'))
    fail_input("[model] ids of rows of '", name, "' are no vector of integers");
  const auto wide = py::array_t < int64_t, py::array::c_style | py::array::forcecast > ::ensure(given);
  if (!wide) throw py::error_already_set();
  std::vector<int> chosen;
  for (py::ssize_t i = 0; i < wide.size(); ++i) {
    const int64_t id = wide.data()[i];
    if (id < 0 || id >= w.n) fail_input("[model] '", name, "' has ", w.n, " rows, not a row ", id);
    chosen.push_back(static_cast<int>(id));
  }
  py::array_t<float> out({chosen.size(), static_cast<size_t>(w.k)});
  float* to = out.mutable_data();
  const py::gil_scoped_release release;
  model.rows(w, chosen, to);
  return out;
}

}  // namespace

void bind_products(ModelClass& model) {
  model.def("linear", linear, py::arg("names"), py::arg("x"), py::arg("rows") = py::none())
      .def("input_gradient", input_gradient, py::arg("names"), py::arg("dys"), py::arg("rows") = py::none())
      .def("rows", rows_of, py::arg("name"), py::arg("ids"));
}

}  // namespace lora_edge
