#include "runtime/load_adapter.h"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "formats/gguf_lora.h"
#include "kernels/kernels.h"
#include "runtime/model.h"

namespace lora_edge {
namespace {

constexpr uint64_t kMaxRank = 1 << 16;

std::string text_of(const std::vector<uint64_t>& shape) {
  std::string out = "(";
  for (size_t i = 0; i < shape.size(); ++i) out += concat(i ? ", " : "", shape[i]);
  return out + ")";
}

// NaN and infinity have all bits of the exponent set.
template <class T>
bool all_finite(const void* data, size_t n, T exponent) {
  const T* p = static_cast<const T*>(data);
  T full = 0;
  for (size_t i = 0; i < n; ++i) full |= T((p[i] & exponent) == exponent);
  return full == 0;
}

bool all_finite(const Factor& f) {
  const size_t n = static_cast<size_t>(f.shape[0] * f.shape[1]);
  return f.type == DType::f32   ? all_finite<uint32_t>(f.data, n, 0x7f800000)
         : f.type == DType::f16 ? all_finite<uint16_t>(f.data, n, 0x7c00)
                                : all_finite<uint16_t>(f.data, n, 0x7f80);
}

// The first factor with a number that is none, or nullptr. Reads all of them, and so is most of the time of loading:
// some threads share it.
const LoraFactors* find_damaged(const std::vector<LoraFactors>& factors) {
  constexpr size_t kThreads = 4;
  const size_t threads = std::min({kThreads, static_cast<size_t>(std::thread::hardware_concurrency()), factors.size()});
  std::atomic<size_t> next{0}, first{factors.size()};
  const auto work = [&] {
    for (size_t i = next.fetch_add(1); i < factors.size(); i = next.fetch_add(1)) {
      if (all_finite(factors[i].a) && all_finite(factors[i].b)) continue;
      size_t before = first.load();
      while (i < before && !first.compare_exchange_weak(before, i)) {
      }
    }
  };
  std::vector<std::thread> helpers;
  try {
    while (helpers.size() + 1 < threads) helpers.emplace_back(work);
  } catch (const std::system_error&) {  // out of threads: go on with those that there are
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  return first < factors.size() ? &factors[first] : nullptr;
}

void place(Adapter& adapter, const Model& model, const std::string& where, const LoraFactors& f) {
  const auto& [tensor, a, b, scale] = f;
  const int id = model.find_linear(tensor);
  if (id < 0)
    fail_input("[adapter] ", where, " is for another base: it adapts '", clip(tensor),
               "', which the base does not have");
  if (!(std::fabs(scale) <= FLT_MAX))
    fail_input("[adapter] ", where, ": '", tensor, "': scale ", scale, " is not finite");
  const Weight& w = model.weight(id);
  const bool embedding = id == embedding_id(model.config());
  const bool matrices = a.shape.size() == 2 && b.shape.size() == 2;
  const uint64_t r = matrices ? b.shape[1] : 0;
  if (!matrices || r == 0 || r > kMaxRank || a.shape[embedding ? 1 : 0] != r)
    fail_input("[adapter] ", where, ": ", tensor, ": factors of shapes ", text_of(a.shape), " and ", text_of(b.shape),
               " have no common rank");
  const std::vector<uint64_t> base{static_cast<uint64_t>(w.n), static_cast<uint64_t>(w.k)};
  const std::vector<uint64_t> product{embedding ? a.shape[0] : b.shape[0], embedding ? b.shape[0] : a.shape[1]};
  if (product != base)
    fail_input("[adapter] ", where, " is for another base: ", tensor, " is ", text_of(product), " in the adapter and ",
               text_of(base), " in the base");
  adapter.set(id, static_cast<int>(b.shape[0]), static_cast<size_t>(a.shape[0] * a.shape[1]), static_cast<int>(r),
              static_cast<float>(scale), a.type, a.data, b.type, b.data);
}

}  // namespace

void place_factors(Adapter& adapter, const Model& model, const std::string& where,
                   const std::vector<LoraFactors>& factors) {
  for (const LoraFactors& f : factors) place(adapter, model, where, f);
  if (const LoraFactors* damaged = find_damaged(factors))
    fail_input("[adapter] ", where, ": '", damaged->tensor, "': lora_", all_finite(damaged->a) ? "b" : "a",
               " holds NaN or infinity: the adapter is damaged");
}

std::shared_ptr<Adapter> load_gguf_adapter(const Model& model, const std::string& name,
                                           const std::shared_ptr<const GgufFile>& file, double factor) {
  auto adapter = std::make_shared<Adapter>(name, linear_count(model.config()));
  adapter->hold(file);
  const auto factor_of = [&](const GgufTensor& t) {
    const DType type = file->dtype(t);
    if (type != DType::q8_0) return Factor{type, t.shape, t.data};
    const size_t rows = static_cast<size_t>(t.n_elements() / t.shape.back()), k = static_cast<size_t>(t.shape.back());
    const std::shared_ptr<float[]> values(new float[rows * k]);
    for (size_t i = 0; i < rows; ++i)
      active_table().dequantize[int(type)](t.data + i * row_bytes(type, k), values.get() + i * k, static_cast<int>(k));
    adapter->hold(values);
    return Factor{DType::f32, t.shape, values.get()};
  };
  std::vector<LoraFactors> factors;
  for (const GgufLoraPair& pair : read_gguf_lora(*file, model.config().arch))
    factors.push_back({pair.tensor, factor_of(*pair.a), factor_of(*pair.b), pair.scale * factor});
  place_factors(*adapter, model, file->path(), factors);
  return adapter;
}

}  // namespace lora_edge
