// The weights of a model, from its file's tensors: each has its place and its shape, and none is left over.
#include <set>

#include "base/error.h"
#include "runtime/model.h"

namespace lora_edge {
namespace {

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += concat(i ? ", " : "", shape[i]);
  return out + "]";
}

}  // namespace

const float* Model::floats(const std::string& name, const std::vector<uint64_t>& shape, bool required) {
  const GgufTensor* t = file_.find_tensor(name);
  if (!t && !required) return nullptr;
  if (!t) fail_input("[model] tensor '", name, "' is missing");
  if (t->type != 0) fail_input("[model] tensor '", name, "' has type ", t->type_name, "; it must be F32");
  if (t->shape != shape)
    fail_input("[model] tensor '", name, "' has shape ", shape_text(t->shape), "; the model needs ", shape_text(shape));
  used_.push_back(name);
  return reinterpret_cast<const float*>(t->data);
}

Weight Model::table(const std::string& name, int n, int k) {
  const GgufTensor* t = file_.find_tensor(name);
  if (!t) fail_input("[model] tensor '", name, "' is missing");
  if (t->shape != std::vector<uint64_t>{static_cast<uint64_t>(n), static_cast<uint64_t>(k)})
    fail_input("[model] tensor '", name, "' has shape ", shape_text(t->shape), "; the model needs [", n, ", ", k, "]");
  used_.push_back(name);
  return {file_.dtype(*t), t->data, n, k, nullptr};
}

Weight Model::matrix(const std::string& name, int n, int k) {
  Weight w = table(name, n, k);
  const std::string stem = name.substr(0, name.size() - std::string("weight").size());
  w.bias = floats(stem + "bias", {static_cast<uint64_t>(n)}, false);
  return w;
}

NormWeight Model::norm(const std::string& stem) {
  const std::vector<uint64_t> shape{static_cast<uint64_t>(config_.n_embd)};
  return {floats(stem + ".weight", shape), config_.norm == Norm::layer ? floats(stem + ".bias", shape) : nullptr};
}

Model::Layer Model::load_layer(int i) {
  const Config& c = config_;
  const std::string prefix = concat("blk.", i, ".");
  Layer layer{};
  if (c.pre_norm) layer.attn_norm = norm(prefix + "attn_norm");
  if (c.pre_norm && !c.parallel) layer.ffn_norm = norm(prefix + "ffn_norm");
  if (c.post_norm) layer.attn_post_norm = norm(prefix + "post_attention_norm");
  if (c.post_norm) layer.ffn_post_norm = norm(prefix + "post_ffw_norm");
  if (c.sum_norm) layer.attn_post_norm = norm(prefix + "attn_output_norm");
  if (c.sum_norm) layer.ffn_post_norm = norm(prefix + "layer_output_norm");
  if (c.qk_norm != QkNorm::none) {
    const auto shape = [&](int heads) -> std::vector<uint64_t> {
      const uint64_t h = static_cast<uint64_t>(heads), d = static_cast<uint64_t>(c.head_dim);
      if (c.qk_norm == QkNorm::per_head) return {h, d};
      return {c.qk_norm == QkNorm::shared ? d : h * d};
    };
    layer.q_norm = floats(prefix + "attn_q_norm.weight", shape(c.n_head));
    layer.k_norm = floats(prefix + "attn_k_norm.weight", shape(c.n_head_kv));
  }
  const int q = c.q_dim() + (c.fused_qkv ? 2 * c.kv_dim() : 0), up = c.fused_gate_up ? 2 * c.n_ff : c.n_ff;
  const int n[kSlots] = {q, c.kv_dim(), c.kv_dim(), c.n_embd, c.n_ff, up, c.n_embd};
  const int k[kSlots] = {c.n_embd, c.n_embd, c.n_embd, c.q_dim(), c.n_embd, c.n_embd, c.n_ff};
  for (int s = 0; s < kSlots; ++s)
    if (has_slot(c, static_cast<Slot>(s)))
      layer.linears[s] = matrix(linear_name(c, linear_id(i, static_cast<Slot>(s))), n[s], k[s]);
  return layer;
}

void Model::load_weights() {
  const Config& c = config_;
  if (static_cast<uint64_t>(c.n_layer) > file_.tensors().size())  // before anything is made for each layer
    fail_input("[model] ", c.n_layer, " layers, but the file holds ", file_.tensors().size(), " tensors");
  embedding_ = table("token_embd.weight", c.n_vocab, c.n_embd);
  if (c.learned_positions) positions_ = table("position_embd.weight", c.n_ctx_train, c.n_embd);
  if (c.n_parts > 0) parts_ = table("token_types.weight", c.n_parts, c.n_embd);
  if (c.embedding_norm) embedding_norm_ = norm("token_embd_norm");
  if (c.causal) {
    output_ = file_.find_tensor("output.weight") ? matrix("output.weight", c.n_vocab, c.n_embd) : embedding_;
    output_norm_ = norm("output_norm");
  } else {  // Python's part
    used_.insert(used_.end(), {"cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"});
  }
  for (int i = 0; i < c.n_layer; ++i) layers_.push_back(load_layer(i));
  for (int id = 0; id < linear_count(c); ++id)
    if (weight(id).data) linear_ids_[linear_name(c, id)] = id;
  if (!c.ropes.empty())
    used_.insert(used_.end(), {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"});
  refuse_other_tensors();
  used_.clear();
}

void Model::refuse_other_tensors() const {
  const std::set<std::string> used(used_.begin(), used_.end());
  for (const GgufTensor& t : file_.tensors())
    if (!used.count(t.name))
      fail_input("[model] tensor '", clip(t.name), "' has no place in architecture '", config_.arch,
                 "': leaving it out would change the model");
}

}  // namespace lora_edge
