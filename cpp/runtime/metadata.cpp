#include "runtime/metadata.h"

#include <cmath>
#include <cstring>

#include "base/error.h"

namespace lora_edge {

std::string string_value(const GgufFile& file, const std::string& key) {
  const GgufValue* v = file.find_value(key);
  const auto* s = v ? std::get_if<std::string_view>(v) : nullptr;
  return s ? std::string(*s) : std::string();
}

std::optional<double> Metadata::number(const std::string& suffix) const {
  const GgufValue* v = file_.find_value(key(suffix));
  if (!v) return std::nullopt;
  if (const auto* u = std::get_if<uint64_t>(v)) return static_cast<double>(*u);
  if (const auto* i = std::get_if<int64_t>(v)) return static_cast<double>(*i);
  if (const auto* d = std::get_if<double>(v)) return *d;
  if (const auto* a = std::get_if<GgufArray>(v)) return uniform(key(suffix), *a);
  fail_input("[model] metadata '", key(suffix), "' must be a number");
}

int Metadata::integer(const std::string& suffix, int low, int high, std::optional<int> absent) const {
  const auto v = number(suffix);
  if (!v && absent) return *absent;
  if (!v) fail_input("[model] metadata '", key(suffix), "' is missing");
  if (!(*v >= low && *v <= high) || *v != std::floor(*v))
    fail_input("[model] metadata '", key(suffix), "' is ", *v, ", not an integer from ", low, " to ", high);
  return static_cast<int>(*v);
}

double Metadata::positive(const std::string& suffix, std::optional<double> absent) const {
  const auto v = number(suffix);
  if (!v && absent) return *absent;
  if (!v) fail_input("[model] metadata '", key(suffix), "' is missing");
  if (!(*v >= 1e-30 && *v <= 1e30))
    fail_input("[model] metadata '", key(suffix), "' is ", *v, ", not a positive number from 1e-30 to 1e30");
  return *v;
}

float Metadata::positive_or_zero(const std::string& suffix, double absent) const {
  const auto v = number(suffix);
  return v && *v == 0.0 ? 0.0f : static_cast<float>(positive(suffix, absent));
}

bool Metadata::flag(const std::string& suffix, bool absent) const {
  const GgufValue* v = file_.find_value(key(suffix));
  if (!v) return absent;
  const auto* b = std::get_if<bool>(v);
  if (!b) fail_input("[model] metadata '", key(suffix), "' must be true or false");
  return *b;
}

std::vector<bool> Metadata::layers(const std::string& suffix, int n, int absent_period) const {
  std::vector<bool> out(static_cast<size_t>(n));
  const GgufValue* v = file_.find_value(key(suffix));
  const auto* a = v ? std::get_if<GgufArray>(v) : nullptr;
  if (!a) {
    const int period = integer(suffix, 0, 1 << 16, absent_period);
    for (int i = 0; i < n; ++i) out[static_cast<size_t>(i)] = period == 0 || i % period < period - 1;
    return out;
  }
  if (a->type != GgufType::boolean || a->count != out.size())
    fail_input("[model] metadata '", key(suffix), "' must be a number or a list of ", n, " booleans, one per layer");
  for (size_t i = 0; i < out.size(); ++i) out[i] = a->data[i] != 0;
  return out;
}

// Some writers give one number per layer.
double Metadata::uniform(const std::string& key, const GgufArray& a) const {
  if ((a.type != GgufType::u32 && a.type != GgufType::i32) || a.count == 0)
    fail_input("[model] metadata '", key, "' must be a number or a list of 32-bit integers");
  uint32_t first = 0;
  std::memcpy(&first, a.data, 4);
  for (uint64_t i = 1; i < a.count; ++i)
    if (std::memcmp(a.data + 4 * i, a.data, 4) != 0)
      fail_input("[model] metadata '", key, "' differs between layers, which is not supported");
  return first;
}

}  // namespace lora_edge
