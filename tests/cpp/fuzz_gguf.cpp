// A fuzzer of the GGUF reader and of everything that trusts it: all metadata and tensors are walked, a file that makes
// a model generates, and one that makes an adapter of a small base runs with it. Run from the root of the tree. Finds
// crashes, reads out of bounds, undefined behaviour and, by its limits, files that ask for too much memory or time.
// Built by -DLORA_EDGE_FUZZ=ON with clang; run by make fuzz.
#include <cstdlib>
#include <memory>

#include "base/error.h"
#include "formats/gguf_lora.h"
#include "runtime/load_adapter.h"
#include "runtime/model.h"
#include "runtime/sampler.h"

namespace lora_edge {
namespace {

volatile uint64_t sink;  // keeps reads alive

void touch(const void* data, uint64_t n) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < n; ++i) sum += static_cast<const uint8_t*>(data)[i];
  sink = sum;
}

void touch(std::string_view s) { touch(s.data(), s.size()); }

uint64_t element_bytes(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean: return 1;
    case GgufType::u16:
    case GgufType::i16: return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32: return 4;
    default: return 8;
  }
}

void walk(const GgufFile& file) {
  for (const auto& [key, value] : file.metadata()) {
    if (file.find_value(key) != &value) std::abort();
    if (const auto* text = std::get_if<std::string_view>(&value)) touch(*text);
    const auto* array = std::get_if<GgufArray>(&value);
    if (!array) continue;
    if (array->type == GgufType::string) {
      for (const std::string_view s : array->strings()) touch(s);
    } else {
      touch(array->data, array->count * element_bytes(array->type));
    }
  }
  for (const GgufTensor& tensor : file.tensors()) {
    if (file.find_tensor(tensor.name) != &tensor || tensor.n_elements() == 0) std::abort();
    touch(tensor.data, tensor.n_bytes);
  }
}

// Three passes: from the second on the adapter settles.
void adapt(const FileSource& source) {
  static const auto base =
      std::make_shared<Model>(FileSource{"tests/fixtures/gguf_corpus/ok_qwen2_q8_0.gguf"}, ModelOptions{});
  const auto adapter = load_gguf_adapter(*base, "fuzz", std::make_shared<GgufFile>(source), 1.0);
  Sequence sequence(base, {{adapter, 1.0f}});
  for (const int token : {0, 1, 2}) base->forward({{&sequence, {token}}}, nullptr, {});
  touch(sequence.logits(3), size_t(base->config().n_vocab) * sizeof(float));
}

// Some weights of rank 2 beside the base, then three tokens and a fourth, sampled.
void generate(const std::shared_ptr<Model>& model) {
  const Config& c = model->config();
  const auto adapter = std::make_shared<Adapter>("fuzz", c);
  const int r = 2;
  for (int id : {linear_id(0, kQ), linear_id(0, kDown), embedding_id(c), output_id(c)}) {
    const Weight& w = model->weight(id);
    const bool embedding = id == embedding_id(c);
    const size_t a_elements = size_t(r) * size_t(embedding ? w.n : w.k);
    const int n = embedding ? w.k : w.n;
    const auto a = std::make_shared<std::vector<float>>(a_elements, 0.5f);
    const auto b = std::make_shared<std::vector<float>>(size_t(n) * size_t(r), 0.25f);
    adapter->set(id, n, a_elements, r, 0.5f, DType::f32, a->data(), DType::f32, b->data());
    adapter->hold(a);
    adapter->hold(b);
  }
  Sequence sequence(model, {{adapter, 1.0f}});
  Sampler sampler({0.7, 5, 0.9, 0.05, 1.1, 1});
  model->forward({{&sequence, {0, c.n_vocab / 2, c.n_vocab - 1}}}, nullptr, {});
  const int token = sampler.sample(sequence.logits(3), c.n_vocab);
  sampler.accept(token);
  model->forward({{&sequence, {token}}}, nullptr, {});
  if (sequence.length() != 4 || !sequence.logits(4)) std::abort();
  touch(sequence.logits(4), size_t(c.n_vocab) * sizeof(float));
}

}  // namespace
}  // namespace lora_edge

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lora_edge;
  if (size == 0) return 0;
  const FileSource source{"fuzz.gguf", data, size};
  try {
    const GgufFile file(source);
    walk(file);
    const GgufValue* kind = file.find_value("general.type");
    const auto* text = kind ? std::get_if<std::string_view>(kind) : nullptr;
    if (text && *text == "adapter") {
      adapt(source);
      return 0;
    }
    generate(std::make_shared<Model>(source, ModelOptions{}));
  } catch (const InputError&) {
  }
  return 0;
}
