#include "formats/gguf_lora.h"

#include <cmath>

#include "base/error.h"

namespace lora_edge {
namespace {

std::string text_of(const GgufFile& file, const std::string& key) {
  const GgufValue* value = file.find_value(key);
  const auto* text = value ? std::get_if<std::string_view>(value) : nullptr;
  return text ? std::string(*text) : "";
}

void check_kind(const GgufFile& file, const std::string& arch) {
  if (text_of(file, "general.type") != "adapter")
    fail_input("[adapter] ", file.path(),
               " is not an adapter: load it as a model, and pass an adapter made for it here");
  const std::string type = text_of(file, "adapter.type");
  if (type != "lora") fail_input("[adapter] ", file.path(), " is no LoRA: its adapter.type is '", clip(type), "'");
  const std::string made_for = text_of(file, "general.architecture");
  if (made_for != arch)
    fail_input("[adapter] ", file.path(), " is for another base: it was made for architecture '", clip(made_for),
               "', the base is '", arch, "'");
  const GgufValue* invocation = file.find_value("adapter.alora.invocation_tokens");
  const auto* tokens = invocation ? std::get_if<GgufArray>(invocation) : nullptr;
  if (invocation && (!tokens || tokens->count > 0))
    fail_input("[adapter] ", file.path(), ": activated LoRA (adapter.alora.invocation_tokens) is not supported");
}

double alpha_of(const GgufFile& file) {
  const GgufValue* value = file.find_value("adapter.lora.alpha");
  if (!value) return 0.0;
  double alpha = NAN;
  if (const auto* f = std::get_if<double>(value)) alpha = *f;
  if (const auto* u = std::get_if<uint64_t>(value)) alpha = static_cast<double>(*u);
  if (const auto* i = std::get_if<int64_t>(value)) alpha = static_cast<double>(*i);
  if (!std::isfinite(alpha)) fail_input("[adapter] ", file.path(), ": adapter.lora.alpha is not a finite number");
  return alpha;
}

}  // namespace

std::vector<GgufLoraPair> read_gguf_lora(const GgufFile& file, const std::string& arch) {
  check_kind(file, arch);
  const double alpha = alpha_of(file);
  std::vector<GgufLoraPair> pairs;
  std::unordered_map<std::string_view, size_t> index;
  for (const GgufTensor& t : file.tensors()) {
    const std::string_view name = t.name, end = ".lora_a";
    const bool is_a = name.size() > end.size() && name.substr(name.size() - end.size()) == end;
    const bool is_b = name.size() > end.size() && name.substr(name.size() - end.size()) == ".lora_b";
    if (!is_a && !is_b) fail_input("[adapter] ", file.path(), ": the tensor '", clip(t.name), "' is not supported");
    const std::string_view stem = name.substr(0, name.size() - end.size());
    const auto [at, fresh] = index.emplace(stem, pairs.size());
    if (fresh) pairs.push_back({std::string(stem), nullptr, nullptr, 1.0});
    GgufLoraPair& pair = pairs[at->second];
    (is_a ? pair.a : pair.b) = &t;
  }
  for (GgufLoraPair& pair : pairs) {
    if (!pair.a || !pair.b)
      fail_input("[adapter] ", file.path(), ": '", clip(pair.tensor), "' has no lora_", pair.a ? "b" : "a");
    if (pair.a->shape.size() != 2 || pair.b->shape.size() != 2)
      fail_input("[adapter] ", file.path(), ": '", clip(pair.tensor), "': lora_a and lora_b must be matrices");
    if (alpha != 0.0) pair.scale = alpha / static_cast<double>(pair.b->shape[1]);
  }
  if (pairs.empty()) fail_input("[adapter] ", file.path(), ": the adapter holds no LoRA tensors");
  return pairs;
}

}  // namespace lora_edge
