#include "bindings/bindings.h"
#include "runtime/config.h"

namespace lora_edge {
namespace {

const char* name_of(Norm norm) { return norm == Norm::rms ? "rms" : "layer"; }

const char* name_of(QkNorm norm) {
  switch (norm) {
    case QkNorm::none: return "none";
    case QkNorm::shared: return "shared";
    case QkNorm::per_head: return "per_head";
    case QkNorm::whole: return "whole";
  }
  return "";
}

const char* name_of(Activation activation) {
  switch (activation) {
    case Activation::silu: return "silu";
    case Activation::gelu_tanh: return "gelu_tanh";
    case Activation::gelu_erf: return "gelu_erf";
  }
  return "";
}

}  // namespace

py::dict block(const Config& c) {
  py::list layers, ropes;
  for (const LayerConfig& layer : c.layers) layers.append(py::make_tuple(layer.window, layer.rope));
  for (const Rope& rope : c.ropes)
    ropes.append(
        py::make_tuple(py::array_t<float>(py::ssize_t(rope.inv_freq.size()), rope.inv_freq.data()), rope.magnitude));
  py::dict d;
  d["layers"] = layers;
  d["ropes"] = ropes;
  d["norm"] = name_of(c.norm);
  d["qk_norm"] = name_of(c.qk_norm);
  d["activation"] = name_of(c.activation);
  d["pre_norm"] = c.pre_norm;
  d["post_norm"] = c.post_norm;
  d["sum_norm"] = c.sum_norm;
  d["parallel"] = c.parallel;
  d["gated"] = c.gated;
  d["fused_qkv"] = c.fused_qkv;
  d["fused_gate_up"] = c.fused_gate_up;
  d["learned_positions"] = c.learned_positions;
  d["rope_interleaved"] = c.rope_interleaved;
  d["n_rot"] = c.n_rot;
  d["embedding_scale"] = c.embedding_scale;
  d["residual_scale"] = c.residual_scale;
  d["logit_scale"] = c.logit_scale;
  d["attention_scale"] = c.attention_scale;
  d["attention_cap"] = c.attention_cap;
  d["logit_cap"] = c.logit_cap;
  return d;
}

}  // namespace lora_edge
