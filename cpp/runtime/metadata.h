// Numbers of a GGUF file's metadata under its architecture's name, each checked before it is used.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "formats/gguf.h"

namespace lora_edge {

// "" where the file has no such string.
std::string string_value(const GgufFile& file, const std::string& key);

class Metadata {
 public:
  Metadata(const GgufFile& file, std::string arch) : file_(file), arch_(std::move(arch)) {}

  const std::string& arch() const { return arch_; }
  const GgufFile& file() const { return file_; }
  bool has(const std::string& suffix) const { return file_.find_value(key(suffix)) != nullptr; }
  std::optional<double> number(const std::string& suffix) const;
  // In [low, high]; an error where it is absent and has no default.
  int integer(const std::string& suffix, int low, int high, std::optional<int> absent = std::nullopt) const;
  // From 1e-30 to 1e30: what float32 holds with room to spare.
  double positive(const std::string& suffix, std::optional<double> absent = std::nullopt) const;
  float positive_or_zero(const std::string& suffix, double absent) const;
  bool flag(const std::string& suffix, bool absent) const;
  std::string string(const std::string& suffix) const { return string_value(file_, key(suffix)); }
  // Which of n layers have a property: a period p means all but every p-th one (1: none, 0: all), a list says it of
  // each.
  std::vector<bool> layers(const std::string& suffix, int n, int absent_period) const;

 private:
  std::string key(const std::string& suffix) const { return arch_ + "." + suffix; }
  double uniform(const std::string& key, const GgufArray& a) const;

  const GgufFile& file_;
  std::string arch_;
};

}  // namespace lora_edge
