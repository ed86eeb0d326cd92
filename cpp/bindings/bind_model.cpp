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

// Runs a pass, to `out`, without the GIL.
template <class Pass>
void run(float* out, Pass pass) {
  bool cancelled = false;
  {
    py::gil_scoped_release release;
    try {
      pass(out);
    } catch (const Cancelled&) {
      cancelled = true;
    }
  }
  if (cancelled) throw py::error_already_set();  // what the signal's handler raised
}

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
  run(logits, [&](float* to) { model.forward(feeds, to, Interrupt()); });
  return out;
}

// texts: sequences that are new, their tokens and the kind of each. -> [Σ tokens, n_embd]
py::array_t<float> encode(
    Model& model, const std::vector<std::tuple<std::shared_ptr<Sequence>, std::vector<int>, std::vector<int>>>& texts) {
  std::vector<Feed> feeds;
  size_t rows = 0;
  for (const auto& [sequence, tokens, parts] : texts) {
    feeds.push_back({sequence.get(), tokens, 1, parts});
    rows += tokens.size();
  }
  py::array_t<float> out({rows, static_cast<size_t>(model.config().n_embd)});
  run(out.mutable_data(), [&](float* to) { model.encode(feeds, to, Interrupt()); });
  return out;
}

py::dict config(const Model& model) {
  const Config& c = model.config();
  py::dict d;
  d["arch"] = c.arch;
  d["causal"] = c.causal;
  d["n_parts"] = c.n_parts;
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
  d["n_ctx_max"] = c.n_ctx_max;
  d["window"] = c.window;
  d["norm_eps"] = c.norm_eps;
  d["rope_base"] = c.rope_base;
  d["rope_scale"] = c.rope_linear;
  d["tied_embeddings"] = model.tied();
  return d;
}

py::dict linear_shapes(const Model& model) {
  py::dict d;
  for (int id = 0; id < linear_count(model.config()); ++id) {
    const Weight& w = model.weight(id);
    if (w.data) d[py::str(linear_name(model.config(), id))] = py::make_tuple(w.n, w.k);
  }
  return d;
}

// callback(names of linears, their input [m, k] of its own), or None. It is let go of where the GIL is held.
Observer observer(const py::object& callback, const Config& c) {
  if (callback.is_none()) return nullptr;
  const std::shared_ptr<py::object> see(new py::object(callback), [](py::object* p) {
    py::gil_scoped_acquire gil;
    delete p;
  });
  return [see, n_layer = c.n_layer, fused = c.fused_qkv](const std::vector<Linear>& linears, const float* x, int m) {
    py::gil_scoped_acquire gil;
    py::list names;
    for (const Linear& l : linears) names.append(linear_name(n_layer, fused, l.id));
    (*see)(names, py::array_t<float>({m, linears[0].weight->k}, x));
  };
}

AdapterSet adapter_set(const std::vector<std::pair<std::shared_ptr<Adapter>, double>>& adapters) {
  AdapterSet set;
  for (const auto& [adapter, weight] : adapters) {
    if (!(std::fabs(weight) <= FLT_MAX))
      fail_input("[adapter] '", adapter->name(), "': weight ", weight, " is not finite");
    set.push_back({adapter, static_cast<float>(weight)});
  }
  check_set(set);
  return set;
}

}  // namespace

void bind_model(py::module_& m) {
  py::class_<Sequence, std::shared_ptr<Sequence>>(m, "Sequence")
      .def(py::init([](const std::shared_ptr<Model>& model,
                       const std::vector<std::pair<std::shared_ptr<Adapter>, double>>& adapters) {
             return std::make_shared<Sequence>(model, adapter_set(adapters));
           }),
           py::arg("model"), py::arg("adapters"))
      .def("__len__", &Sequence::length)
      .def_property_readonly("ready", [](const Sequence& s) { return s.has_logits(s.length()); })
      .def("set_adapters",
           [](Sequence& s, const std::vector<std::pair<std::shared_ptr<Adapter>, double>>& adapters) {
             AdapterSet set = adapter_set(adapters);
             py::gil_scoped_release release;
             s.set_adapters(std::move(set));
           })
      .def("set_starts", &Sequence::set_starts, py::arg("starts"), Released())
      .def("truncate", &Sequence::truncate, py::arg("n"), Released())
      .def("fork", &Sequence::fork, Released())
      .def("logits", [](Sequence& s) {
        const float* logits;
        {
          py::gil_scoped_release release;
          logits = s.logits(s.length());
        }
        return py::array_t<float>(logits ? s.model()->config().n_vocab : 0, logits);
      });

  ModelClass model_class(m, "Model");
  model_class
      .def(py::init([](const py::object& path, int n_ctx, int threads, const std::string& kv_type,
                       const std::vector<int>& cpus, int cuda) {
             const std::string bytes = path_bytes(path);
             const py::gil_scoped_release release;
             return std::make_shared<Model>(FileSource{bytes}, ModelOptions{n_ctx, threads, kv_type, cpus, cuda});
           }),
           py::arg("path"), py::arg("n_ctx"), py::arg("threads"), py::arg("kv_type"),
           py::arg("cpus") = std::vector<int>(), py::arg("cuda") = -1)
      .def_property_readonly("file", &Model::file, py::return_value_policy::reference_internal)
      .def_property_readonly("config", config)
      .def_property_readonly("block", [](const Model& model) { return block(model.config()); })
      .def_property_readonly("n_ctx", &Model::n_ctx)
      .def_property_readonly("threads", &Model::threads)
      .def_property_readonly("kv_type", [](const Model& model) { return dtype_name(model.kv_type()); })
      .def_property_readonly("kv_bytes", [](const Model& model) { return model.kv_bytes()->load(); })
      .def_property_readonly("buffer_bytes", &Model::buffer_bytes)
      .def("linear_shapes", linear_shapes)
      .def(
          "observe",
          [](Model& model, const py::object& callback) {
            Observer seen = observer(callback, model.config());
            py::gil_scoped_release release;
            model.observe(std::move(seen));
          },
          py::arg("callback"))
      .def("encode", encode, py::arg("texts"))
      .def("forward", forward, py::arg("batch"), py::arg("all_logits") = false);
  bind_products(model_class);
}

}  // namespace lora_edge
