#include "runtime/load_adapter.h"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "formats/gguf_lora.h"
#include "kernels/kernels.h"
#include "runtime/dora.h"
#include "runtime/model.h"

namespace lora_edge {
namespace {

constexpr uint64_t kMaxRank = 1 << 16;
constexpr uint64_t kMaxDoraRank = 1 << 11;  // whose A·Aᵀ [r, r] is made for each linear

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

bool all_finite(const std::vector<float>& x) { return all_finite<uint32_t>(x.data(), x.size(), 0x7f800000); }

bool all_finite(const Factor& f) {
  const size_t rows = static_cast<size_t>(f.shape[0]), k = static_cast<size_t>(f.shape[1]), n = rows * k;
  if (is_quantised(f.type)) {
    std::vector<float> row(k);
    const auto* from = static_cast<const uint8_t*>(f.data);
    for (size_t i = 0; i < rows; ++i, from += row_bytes(f.type, k)) {
      active_table().dequantize[int(f.type)](from, row.data(), static_cast<int>(k));
      if (!all_finite(row)) return false;
    }
    return true;
  }
  return f.type == DType::f32   ? all_finite<uint32_t>(f.data, n, 0x7f800000)
         : f.type == DType::f16 ? all_finite<uint16_t>(f.data, n, 0x7c00)
                                : all_finite<uint16_t>(f.data, n, 0x7f80);
}

// fn(i) for i in [0, n), shared by some threads.
template <class Fn>
void share(size_t n, const Fn& fn) {
  constexpr size_t kThreads = 4;
  const size_t threads = std::min({kThreads, static_cast<size_t>(std::thread::hardware_concurrency()), n});
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  const auto work = [&] {
    try {
      for (size_t i = next.fetch_add(1); i < n; i = next.fetch_add(1)) fn(i);
    } catch (...) {
      next = n;
      std::lock_guard<std::mutex> lock(mutex);
      error = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  helpers.reserve(threads);
  try {
    while (helpers.size() + 1 < threads) helpers.emplace_back(work);
  } catch (const std::exception&) {  // out of threads: go on with those that there are
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (error) std::rethrow_exception(error);
}

// The first factor with a number that is none, or nullptr. Reads all of them, and so is most of the time of loading.
const LoraFactors* find_damaged(const std::vector<LoraFactors>& factors) {
  std::atomic<size_t> first{factors.size()};
  share(factors.size(), [&](size_t i) {
    const LoraFactors& f = factors[i];
    if (all_finite(f.a) && all_finite(f.b) && all_finite(f.magnitude) && all_finite(f.bias)) return;
    size_t before = first.load();
    while (i < before && !first.compare_exchange_weak(before, i)) {
    }
  });
  return first < factors.size() ? &factors[first] : nullptr;
}

const char* damaged_part(const LoraFactors& f) {
  return !all_finite(f.a)           ? "lora_a"
         : !all_finite(f.b)         ? "lora_b"
         : !all_finite(f.magnitude) ? "lora_magnitude"
                                    : "the bias of lora_b";
}

int find(const Model& model, const std::string& where, const std::string& tensor) {
  const int id = model.find_linear(tensor);
  if (id < 0)
    fail_input("[adapter] ", where, " is for another base: it adapts '", clip(tensor),
               "', which the base does not have");
  return id;
}

void place(Adapter& adapter, const Model& model, const std::string& where, const LoraFactors& f) {
  const std::string& tensor = f.tensor;
  const Factor &a = f.a, &b = f.b;
  const double scale = f.scale;
  const int id = find(model, where, tensor);
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
  if (!f.magnitude.empty() && r > kMaxDoraRank)
    fail_input("[adapter] ", where, ": ", tensor, ": DoRA of rank ", r, "; at most ", kMaxDoraRank, " is possible");
  for (const std::vector<float>* x : {&f.magnitude, &f.bias})
    if (!x->empty() && x->size() != b.shape[0])
      fail_input("[adapter] ", where, ": ", tensor, ": ", x == &f.bias ? "the bias of lora_b" : "lora_magnitude",
                 " has ", x->size(), " elements for ", b.shape[0], " outputs");
  adapter.set(id, static_cast<int>(b.shape[0]), static_cast<size_t>(a.shape[0] * a.shape[1]), static_cast<int>(r),
              static_cast<float>(scale), a.type, a.data, b.type, b.data);
}

void place(Adapter& adapter, const Model& model, const std::string& where, const WholeWeight& f) {
  const int id = find(model, where, f.tensor);
  Weight w = model.weight(id);
  if (adapter.at(id).r != 0)
    fail_input("[adapter] ", where, ": ", f.tensor, " is both replaced and adapted: one of them would be lost");
  const std::vector<uint64_t> base{static_cast<uint64_t>(w.n), static_cast<uint64_t>(w.k)};
  if (f.weight.shape != base)
    fail_input("[adapter] ", where, " is for another base: ", f.tensor, " is ", text_of(f.weight.shape),
               " in the adapter and ", text_of(base), " in the base");
  if ((w.bias == nullptr) != (f.bias == nullptr))
    fail_input("[adapter] ", where, " is for another base: ", f.tensor, " has ", w.bias ? "a" : "no",
               " bias in the base only");
  if (f.bias && f.n_bias != base[0])
    fail_input("[adapter] ", where, " is for another base: the bias of ", f.tensor, " has ", f.n_bias, " elements for ",
               base[0], " outputs");
  if (!all_finite(f.weight) || (f.bias && !all_finite<uint32_t>(f.bias, base[0], 0x7f800000)))
    fail_input("[adapter] ", where, ": '", f.tensor, "' holds NaN or infinity: the adapter is damaged");
  w.type = f.weight.type;
  w.data = static_cast<const uint8_t*>(f.weight.data);
  w.bias = f.bias;
  LoraExtra extra;
  extra.whole = std::make_shared<const Weight>(w);
  adapter.set_extra(id, std::move(extra));
}

void add_extras(Adapter& adapter, const Model& model, const std::string& where,
                const std::vector<LoraFactors>& factors) {
  std::vector<LoraExtra> extras(factors.size());
  share(factors.size(), [&](size_t i) {
    const LoraFactors& f = factors[i];
    const int id = model.find_linear(f.tensor);
    extras[i].bias = f.bias;
    extras[i].magnitude = f.magnitude;
    if (!f.magnitude.empty()) measure_rows(model.weight(id), f.a, f.b, id == embedding_id(model.config()), extras[i]);
  });
  for (size_t i = 0; i < factors.size(); ++i)
    if (!factors[i].magnitude.empty() || !factors[i].bias.empty())
      adapter.set_extra(model.find_linear(factors[i].tensor), std::move(extras[i]));
  if (const auto scales = adapter.row_scales(1.0f))
    for (size_t id = 0; id < scales->size(); ++id)
      if (!all_finite((*scales)[id]))
        fail_input("[adapter] ", where, ": ", linear_name(model.config(), static_cast<int>(id)),
                   ": DoRA divides by the norm of a row of W + s·B·A, which is next to nothing beside W's");
}

}  // namespace

void place_factors(Adapter& adapter, const Model& model, const std::string& where,
                   const std::vector<LoraFactors>& factors, const std::vector<WholeWeight>& wholes) {
  for (const LoraFactors& f : factors) place(adapter, model, where, f);
  if (const LoraFactors* damaged = find_damaged(factors))
    fail_input("[adapter] ", where, ": '", damaged->tensor, "': ", damaged_part(*damaged),
               " holds NaN or infinity: the adapter is damaged");
  for (const WholeWeight& whole : wholes) place(adapter, model, where, whole);
  add_extras(adapter, model, where, factors);
}

std::shared_ptr<Adapter> load_gguf_adapter(const Model& model, const std::string& name,
                                           const std::shared_ptr<const GgufFile>& file, double factor) {
  auto adapter = std::make_shared<Adapter>(name, model.config());
  adapter->hold(file);
  const auto factor_of = [&](const GgufTensor& t) {
    const DType type = file->dtype(t);
    if (!is_quantised(type)) return Factor{type, t.shape, t.data};
    const size_t rows = static_cast<size_t>(t.n_elements() / t.shape.back()), k = static_cast<size_t>(t.shape.back());
    const std::shared_ptr<float[]> values(new float[rows * k]);
    for (size_t i = 0; i < rows; ++i)
      active_table().dequantize[int(type)](t.data + i * row_bytes(type, k), values.get() + i * k, static_cast<int>(k));
    adapter->hold(values);
    return Factor{DType::f32, t.shape, values.get()};
  };
  const auto values_of = [&](const GgufTensor* t) {
    const auto* x = t ? reinterpret_cast<const float*>(t->data) : nullptr;
    return x ? std::vector<float>(x, x + t->n_elements()) : std::vector<float>();
  };
  const GgufLora lora = read_gguf_lora(*file, model.config().arch);
  std::vector<LoraFactors> factors;
  for (const GgufLoraPair& pair : lora.pairs)
    factors.push_back({pair.tensor, factor_of(*pair.a), factor_of(*pair.b), pair.scale * factor,
                       values_of(pair.magnitude), values_of(pair.bias)});
  std::vector<WholeWeight> wholes;
  for (const GgufWhole& whole : lora.wholes)
    wholes.push_back({whole.tensor,
                      {file->dtype(*whole.weight), whole.weight->shape, whole.weight->data},
                      whole.bias ? reinterpret_cast<const float*>(whole.bias->data) : nullptr,
                      whole.bias ? static_cast<size_t>(whole.bias->n_elements()) : 0});
  if (!wholes.empty()) adapter->keep(file);
  place_factors(*adapter, model, file->path(), factors, wholes);
  return adapter;
}

}  // namespace lora_edge
