#include <cfloat>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "bindings/bindings.h"
#include "runtime/model.h"

namespace lora_edge {
namespace {

using Released = py::call_guard<py::gil_scoped_release>;

// Asks Python for a pending Ctrl-C, at most every kPollSeconds: it takes the GIL, which another thread may hold for 5
// ms.
class Interrupt {
 public:
  bool operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < kPollSeconds) return false;
    last_ = now;
    py::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
  }

 private:
  static constexpr auto kPollSeconds = std::chrono::milliseconds(50);
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// batch: sequences, their new tokens, and after how many of these the logits are kept.
py::object forward(Model& model, const std::vector<std::tuple<std::shared_ptr<Sequence>, std::vector<int>, int>>& batch,
                   bool all_logits) {
  std::vector<Feed> feeds;
  size_t rows = 0;
  for (const auto& [sequence, tokens, n_logits] : batch) {
    feeds.push_back({sequence.get(), tokens, n_logits});
    rows += tokens.size();
  }
  py::object out = py::none();
  float* logits = nullptr;
  if (all_logits) {
    py::array_t<float> array({rows, static_cast<size_t>(model.config().n_vocab)});
    logits = array.mutable_data();
    out = std::move(array);
  }
  bool cancelled = false;
  {
    py::gil_scoped_release release;
    try {
      model.forward(feeds, logits, Interrupt());
    } catch (const Cancelled&) {
      cancelled = true;
    }
  }
  if (cancelled) throw py::error_already_set();  // what the signal's handler raised
  return out;
}

py::dict config(const Model& model) {
  const Config& c = model.config();
  py::dict d;
  d["arch"] = c.arch;
  d["name"] = py::reinterpret_steal<py::object>(
      PyUnicode_DecodeUTF8(c.name.data(), static_cast<Py_ssize_t>(c.name.size()), "replace"));
  d["n_layer"] = c.n_layer;
  d["n_embd"] = c.n_embd;
  d["n_head"] = c.n_head;
  d["n_head_kv"] = c.n_head_kv;
  d["head_dim"] = c.head_dim;
  d["n_ff"] = c.n_ff;
  d["n_vocab"] = c.n_vocab;
  d["n_ctx_train"] = c.n_ctx_train;
  d["window"] = c.window;
  d["rms_eps"] = c.rms_eps;
  d["rope_base"] = c.rope_base;
  d["rope_scale"] = c.rope_linear;
  d["tied_embeddings"] = model.tied();
  return d;
}

py::dict linear_shapes(const Model& model) {
  py::dict d;
  for (int id = 0; id < linear_count(model.config()); ++id) {
    const Weight& w = model.weight(id);
    d[py::str(linear_name(model.config(), id))] = py::make_tuple(w.n, w.k);
  }
  return d;
}

// float32, float16, or uint16 that holds bfloat16 bits.
DType factor_type(const std::string& name, const py::array& a) {
  const char kind = a.dtype().kind();
  const auto size = a.dtype().itemsize();
  if (kind == 'f' && size == 4) return DType::f32;
  if (kind == 'f' && size == 2) return DType::f16;
  if (kind == 'u' && size == 2) return DType::bf16;
  fail_input("[adapter] '", name, "': factors must be float32, float16 or bfloat16");
}

// NaN and infinity have all bits of the exponent set.
template <class T>
bool all_finite(const py::array& a, T exponent) {
  const auto* p = static_cast<const T*>(a.data());
  T full = 0;
  for (py::ssize_t i = 0; i < a.size(); ++i) full |= T((p[i] & exponent) == exponent);
  return full == 0;
}

void check_finite(const std::string& name, const char* side, const py::array& a, DType type) {
  const bool finite = type == DType::f32   ? all_finite<uint32_t>(a, 0x7f800000)
                      : type == DType::f16 ? all_finite<uint16_t>(a, 0x7c00)
                                           : all_finite<uint16_t>(a, 0x7f80);
  if (!finite) fail_input("[adapter] '", name, "': ", side, " holds NaN or infinity: the adapter is damaged");
}

// One entry of an adapter, (a, b, scale): a [r, k], b [n, r]; for the embedding a [n_vocab, r], b [n_embd, r].
void set_weight(Adapter& adapter, const Model& model, int id, const py::tuple& entry) {
  const std::string name = linear_name(model.config(), id);
  const auto a = py::array::ensure(entry[0], py::array::c_style), b = py::array::ensure(entry[1], py::array::c_style);
  const auto scale = entry[2].cast<double>();
  if (!a || !b || a.ndim() != 2 || b.ndim() != 2)
    fail_input("[adapter] '", name, "': lora_a and lora_b must be matrices");
  if (!(std::fabs(scale) <= FLT_MAX)) fail_input("[adapter] '", name, "': scale ", scale, " is not finite");
  const Weight& w = model.weight(id);
  const bool embedding = id == embedding_id(model.config());
  const py::ssize_t r = b.shape(1), n = embedding ? w.k : w.n;
  const bool fits = r > 0 && r <= (1 << 16) && b.shape(0) == n &&
                    (embedding ? a.shape(0) == w.n && a.shape(1) == r : a.shape(0) == r && a.shape(1) == w.k);
  if (!fits)
    fail_input("[adapter] '", name, "': lora_a [", a.shape(0), ", ", a.shape(1), "] and lora_b [", b.shape(0), ", ",
               b.shape(1), "] don't fit the base's weight [", w.n, ", ", w.k,
               "]: the adapter was made for another base");
  const DType a_type = factor_type(name, a), b_type = factor_type(name, b);
  check_finite(name, "lora_a", a, a_type);
  check_finite(name, "lora_b", b, b_type);
  adapter.set(id, int(n), size_t(a.size()), int(r), float(scale), a_type, a.data(), b_type, b.data());
}

std::shared_ptr<Adapter> make_adapter(const Model& model, const std::string& name, const py::dict& entries) {
  const int n = linear_count(model.config());
  auto adapter = std::make_shared<Adapter>(name, n);
  size_t placed = 0;
  for (int id = 0; id < n; ++id) {
    const py::str key(linear_name(model.config(), id));
    if (!entries.contains(key)) continue;
    set_weight(*adapter, model, id, entries[key].cast<py::tuple>());
    ++placed;
  }
  if (placed == entries.size()) return adapter;
  const py::dict known = linear_shapes(model);
  for (const auto& [key, value] : entries)
    if (!known.contains(key))
      fail_input("[adapter] '", name, "' adapts '", key.cast<std::string>(), "', which the base doesn't have");
  return adapter;
}

AdapterSet adapter_set(const std::vector<std::pair<std::shared_ptr<Adapter>, double>>& adapters) {
  AdapterSet set;
  for (const auto& [adapter, weight] : adapters) {
    if (!(std::fabs(weight) <= FLT_MAX))
      fail_input("[adapter] '", adapter->name(), "': weight ", weight, " is not finite");
    set.push_back({adapter, static_cast<float>(weight)});
  }
  return set;
}

}  // namespace

void bind_model(py::module_& m) {
  py::class_<Adapter, std::shared_ptr<Adapter>>(m, "Adapter")
      .def(py::init(&make_adapter), py::arg("model"), py::arg("name"), py::arg("entries"))
      .def_property_readonly("name", &Adapter::name)
      .def_property_readonly("n_bytes", &Adapter::n_bytes);

  py::class_<Sequence, std::shared_ptr<Sequence>>(m, "Sequence")
      .def(py::init([](const std::shared_ptr<Model>& model,
                       const std::vector<std::pair<std::shared_ptr<Adapter>, double>>& adapters) {
             return std::make_shared<Sequence>(model, adapter_set(adapters));
           }),
           py::arg("model"), py::arg("adapters"))
      .def("__len__", &Sequence::length)
      .def_property_readonly("ready", [](const Sequence& s) { return s.logits(s.length()) != nullptr; })  // has logits
      .def("set_adapters",
           [](Sequence& s, const std::vector<std::pair<std::shared_ptr<Adapter>, double>>& adapters) {
             AdapterSet set = adapter_set(adapters);
             py::gil_scoped_release release;
             s.set_adapters(std::move(set));
           })
      .def("truncate", &Sequence::truncate, py::arg("n"), Released())
      .def("fork", &Sequence::fork, Released())
      .def("logits", [](const Sequence& s) {
        const float* logits = s.logits(s.length());
        return py::array_t<float>(logits ? s.model()->config().n_vocab : 0, logits);
      });

  py::class_<Model, std::shared_ptr<Model>>(m, "Model")
      .def(py::init([](const py::object& path, int n_ctx, int threads, const std::string& kv_type) {
             const std::string bytes = path_bytes(path);
             const py::gil_scoped_release release;
             return std::make_shared<Model>(FileSource{bytes}, ModelOptions{n_ctx, threads, kv_type});
           }),
           py::arg("path"), py::arg("n_ctx"), py::arg("threads"), py::arg("kv_type"))
      .def_property_readonly("file", &Model::file, py::return_value_policy::reference_internal)
      .def_property_readonly("config", config)
      .def_property_readonly("n_ctx", &Model::n_ctx)
      .def_property_readonly("threads", &Model::threads)
      .def_property_readonly("kv_type", [](const Model& model) { return dtype_name(model.kv_type()); })
      .def_property_readonly("kv_bytes", [](const Model& model) { return model.kv_bytes()->load(); })
      .def_property_readonly("buffer_bytes", &Model::buffer_bytes)
      .def("linear_shapes", linear_shapes)
      .def("forward", forward, py::arg("batch"), py::arg("all_logits") = false);
}

}  // namespace lora_edge
