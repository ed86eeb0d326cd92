#include "base/error.h"
#include "bindings/bindings.h"
#include "runtime/model.h"
#include "runtime/sampler.h"

namespace lora_edge {
namespace {

// After the first `length` positions.
std::pair<int, double> sample(Sampler& sampler, Sequence& sequence, int length) {
  const Likeliest* likeliest = sequence.likeliest(length);
  if (likeliest && sampler.is_enough(*likeliest)) {
    const int id = sampler.sample(*likeliest);
    return {id, log_probability(*likeliest, id)};
  }
  const float* logits = sequence.logits(length);
  const int n_vocab = sequence.model()->config().n_vocab;
  const int id = sampler.sample(logits, n_vocab);
  return {id, log_probability(logits, n_vocab, id)};
}

py::array_t<float> log_probabilities(const py::array_t<float, py::array::c_style>& logits,
                                     const std::vector<int>& ids) {
  if (logits.ndim() != 2 || logits.shape(0) != static_cast<py::ssize_t>(ids.size()))
    fail_input("[sampler] one row of logits per id is needed");
  py::array_t<float> out(static_cast<py::ssize_t>(ids.size()));
  const int n_vocab = static_cast<int>(logits.shape(1));
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= n_vocab) fail_input("[sampler] id ", ids[i], " is outside the vocabulary of ", n_vocab);
    out.mutable_data()[i] =
        static_cast<float>(log_probability(logits.data(static_cast<py::ssize_t>(i), 0), n_vocab, ids[i]));
  }
  return out;
}

}  // namespace

void bind_sampler(py::module_& m) {
  py::class_<Sampler>(m, "Sampler")
      .def(py::init([](double temperature, int top_k, double top_p, double min_p, double repeat_penalty,
                       uint64_t seed) { return Sampler({temperature, top_k, top_p, min_p, repeat_penalty, seed}); }),
           py::arg("temperature"), py::arg("top_k"), py::arg("top_p"), py::arg("min_p"), py::arg("repeat_penalty"),
           py::arg("seed"))
      .def("accept", &Sampler::accept, py::arg("token"))
      .def("sample", sample, py::arg("sequence"), py::arg("length"), py::call_guard<py::gil_scoped_release>())
      .def(
          "sample_row",
          [](Sampler& sampler, const py::array_t<float, py::array::c_style>& logits) {
            if (logits.ndim() != 1) fail_input("[sampler] logits are one row");
            return sampler.sample(logits.data(), static_cast<int>(logits.size()));
          },
          py::arg("logits"));
  m.def("log_probabilities", log_probabilities, py::arg("logits"), py::arg("ids"));
}

}  // namespace lora_edge
