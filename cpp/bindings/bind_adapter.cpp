#include "base/error.h"
#include "bindings/bindings.h"
#include "formats/gguf_lora.h"
#include "runtime/load_adapter.h"
#include "runtime/model.h"

namespace lora_edge {
namespace {

// float32, float16, or uint16 that holds bfloat16 bits.
Factor factor_of(const std::string& name, const py::array& array) {
  const char kind = array.dtype().kind();
  const auto size = array.dtype().itemsize();
  Factor f{DType::f32, {array.shape(), array.shape() + array.ndim()}, array.data()};
  if (kind == 'f' && size == 2)
    f.type = DType::f16;
  else if (kind == 'u' && size == 2)
    f.type = DType::bf16;
  else if (kind != 'f' || size != 4)
    fail_input("[adapter] '", name, "': factors must be float32, float16 or bfloat16");
  return f;
}

// Keeps an array; the adapter may let go of it in any thread.
std::shared_ptr<const void> owner_of(const py::array& array) {
  return {array.ptr(), [kept = new py::object(array)](const void*) {
            const py::gil_scoped_acquire gil;
            delete kept;
          }};
}

std::vector<float> floats_of(const py::handle& array) {
  if (array.is_none()) return {};
  const auto x = py::array_t < float, py::array::c_style | py::array::forcecast > ::ensure(array);
  if (!x || x.ndim() != 1) fail_input("[adapter] a magnitude or bias is no vector of numbers");
  return {x.data(), x.data() + x.size()};
}

// entries: base tensor -> (a, b, scale, magnitude, bias); a [r, k], b [n, r], for the embedding a [n_vocab, r], b
// [n_embd, r]; magnitude and bias [n] or None. wholes: base tensor -> (weight [n, k], bias [n] or None).
std::shared_ptr<Adapter> from_arrays(const Model& model, const std::string& name, const py::dict& entries,
                                     const py::dict& wholes) {
  auto adapter = std::make_shared<Adapter>(name, model.config());
  std::vector<LoraFactors> factors;
  for (const auto& [key, value] : entries) {
    const auto tensor = key.cast<std::string>();
    const auto entry = value.cast<py::tuple>();
    const auto a = py::array::ensure(entry[0], py::array::c_style), b = py::array::ensure(entry[1], py::array::c_style);
    if (!a || !b) fail_input("[adapter] '", tensor, "': lora_a and lora_b must be matrices");
    factors.push_back({tensor, factor_of(tensor, a), factor_of(tensor, b), entry[2].cast<double>(), floats_of(entry[3]),
                       floats_of(entry[4])});
    adapter->hold(owner_of(a));
    adapter->hold(owner_of(b));
  }
  std::vector<WholeWeight> whole_weights;
  for (const auto& [key, value] : wholes) {
    const auto tensor = key.cast<std::string>();
    const auto entry = value.cast<py::tuple>();
    const auto weight = py::array::ensure(entry[0], py::array::c_style);
    if (!weight) fail_input("[adapter] '", tensor, "' must be a matrix");
    adapter->keep(owner_of(weight));
    const auto bias = std::make_shared<const std::vector<float>>(floats_of(entry[1]));
    adapter->keep(bias);
    whole_weights.push_back({tensor, factor_of(tensor, weight), bias->empty() ? nullptr : bias->data(), bias->size()});
  }
  place_factors(*adapter, model, concat("'", name, "'"), factors, whole_weights);
  return adapter;
}

py::object name_of(const GgufTensor* t) { return t ? py::object(py::str(t->name)) : py::none(); }

py::tuple gguf_lora(const GgufFile& file, const std::string& arch) {
  const GgufLora lora = read_gguf_lora(file, arch);
  py::list pairs, wholes;
  for (const GgufLoraPair& p : lora.pairs)
    pairs.append(py::make_tuple(p.tensor, p.a->name, p.b->name, p.scale, name_of(p.magnitude), name_of(p.bias)));
  for (const GgufWhole& w : lora.wholes) wholes.append(py::make_tuple(w.tensor, w.weight->name, name_of(w.bias)));
  return py::make_tuple(pairs, wholes, lora.invocation);
}

}  // namespace

void bind_adapter(py::module_& m) {
  py::class_<Adapter, std::shared_ptr<Adapter>>(m, "Adapter")
      .def(py::init(&from_arrays), py::arg("model"), py::arg("name"), py::arg("entries"),
           py::arg("wholes") = py::dict())
      .def_static(
          "from_gguf",
          [](const Model& model, const std::string& name, const std::shared_ptr<GgufFile>& file, double factor) {
            return load_gguf_adapter(model, name, file, factor);
          },
          py::arg("model"), py::arg("name"), py::arg("file"), py::arg("factor"),
          py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("name", &Adapter::name)
      .def_property_readonly("n_bytes", &Adapter::n_bytes)
      .def("ranks", &Adapter::ranks);
  m.def("gguf_lora", gguf_lora, py::arg("file"), py::arg("arch"));
}

}  // namespace lora_edge
