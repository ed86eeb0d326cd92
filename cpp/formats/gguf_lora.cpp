#include "formats/gguf_lora.h"

#include <cmath>

#include "base/error.h"

namespace lora_edge {
namespace {

constexpr uint64_t kMaxInvocation = 4096;

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
}

// llama.cpp writes these as 32-bit integers, unsigned or signed.
std::vector<int64_t> invocation_of(const GgufFile& file) {
  const GgufValue* value = file.find_value("adapter.alora.invocation_tokens");
  if (!value) return {};
  const auto* tokens = std::get_if<GgufArray>(value);
  if (!tokens || (tokens->type != GgufType::u32 && tokens->type != GgufType::i32) || tokens->count > kMaxInvocation)
    fail_input("[adapter] ", file.path(), ": adapter.alora.invocation_tokens is not a list of at most ", kMaxInvocation,
               " token ids");
  std::vector<int64_t> out;
  for (uint64_t i = 0; i < tokens->count; ++i) {
    uint32_t token;
    std::memcpy(&token, tokens->data + 4 * i, 4);
    out.push_back(token);
  }
  return out;
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

enum Part { kA, kB, kMagnitude, kBias, kWhole, kLookupOnly, kParts };
constexpr std::string_view kEnds[kParts] = {".lora_a",      ".lora_b",          ".lora_magnitude",
                                            ".lora_b.bias", ".modules_to_save", ".lookup_only"};

Part part_of(const GgufFile& file, const GgufTensor& t) {
  const std::string_view name = t.name;
  for (int part = 0; part < kParts; ++part) {
    const std::string_view end = kEnds[part];
    if (name.size() > end.size() && name.substr(name.size() - end.size()) == end) return static_cast<Part>(part);
  }
  fail_input("[adapter] ", file.path(), ": the tensor '", clip(t.name), "' is not supported");
}

const GgufTensor* vector_of(const GgufFile& file, const GgufTensor& t) {
  if (t.shape.size() != 1 || file.dtype(t) != DType::f32)
    fail_input("[adapter] ", file.path(), ": '", clip(t.name), "' must be a vector of F32");
  return &t;
}

}  // namespace

GgufLora read_gguf_lora(const GgufFile& file, const std::string& arch) {
  check_kind(file, arch);
  const double alpha = alpha_of(file);
  GgufLora lora;
  lora.invocation = invocation_of(file);
  std::unordered_map<std::string_view, size_t> index;
  std::unordered_map<std::string, const GgufTensor*> biases;
  for (const GgufTensor& t : file.tensors()) {
    const Part part = part_of(file, t);
    const std::string_view name = t.name, stem = name.substr(0, name.size() - kEnds[part].size());
    if (part == kWhole) {
      const bool is_bias = stem.size() > 5 && stem.substr(stem.size() - 5) == ".bias";
      const std::string tensor = is_bias ? std::string(stem.substr(0, stem.size() - 4)) + "weight" : std::string(stem);
      if (is_bias) {
        biases[tensor] = vector_of(file, t);
      } else {
        lora.wholes.push_back({tensor, &t, nullptr});
      }
      continue;
    }
    if (part == kLookupOnly) {
      if (stem != "token_embd.weight") fail_input("[adapter] ", file.path(), ": '", clip(t.name), "' is not supported");
      continue;
    }
    const auto [at, fresh] = index.emplace(stem, lora.pairs.size());
    if (fresh) lora.pairs.push_back({std::string(stem), nullptr, nullptr, 1.0, nullptr, nullptr});
    GgufLoraPair& pair = lora.pairs[at->second];
    (part == kA           ? pair.a
     : part == kB         ? pair.b
     : part == kMagnitude ? pair.magnitude
                          : pair.bias) = part == kA || part == kB ? &t : vector_of(file, t);
  }
  for (GgufLoraPair& pair : lora.pairs) {
    if (!pair.a || !pair.b)
      fail_input("[adapter] ", file.path(), ": '", clip(pair.tensor), "' has no lora_", pair.a ? "b" : "a");
    if (pair.a->shape.size() != 2 || pair.b->shape.size() != 2)
      fail_input("[adapter] ", file.path(), ": '", clip(pair.tensor), "': lora_a and lora_b must be matrices");
    if (alpha != 0.0) pair.scale = alpha / static_cast<double>(pair.b->shape[1]);
  }
  for (GgufWhole& whole : lora.wholes) {
    const auto bias = biases.find(whole.tensor);
    if (bias != biases.end()) whole.bias = bias->second, biases.erase(bias);
    file.dtype(*whole.weight);
  }
  if (!biases.empty())
    fail_input("[adapter] ", file.path(), ": '", clip(biases.begin()->first), "' has no whole weight, but its bias");
  if (lora.pairs.empty() && lora.wholes.empty())
    fail_input("[adapter] ", file.path(), ": the adapter holds no LoRA tensors");
  return lora;
}

}  // namespace lora_edge
