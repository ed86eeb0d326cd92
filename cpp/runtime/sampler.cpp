#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "base/error.h"
#include "kernels/kernels.h"

namespace lora_edge {
namespace {
constexpr size_t kPenaltyWindow = 64;  // llama.cpp's repeat_last_n

// The first of the likeliest.
int likeliest(const float* logits, int n_vocab) {
  return static_cast<int>(std::max_element(logits, logits + n_vocab) - logits);
}

void check_finite(const float* logits, int n_vocab) {
  uint32_t not_finite = 0;
  for (int i = 0; i < n_vocab; ++i) {
    uint32_t bits;
    std::memcpy(&bits, logits + i, 4);
    not_finite |= (bits & 0x7f800000u) == 0x7f800000u;
  }
  if (not_finite)
    fail_input(
        "[sampler] the logits hold NaN or infinity: the model or an adapter is damaged, or a scale is too large");
}

}  // namespace

Sampler::Sampler(const SamplerOptions& o) : options_(o), state_(o.seed) {
  if (!(o.temperature >= 0) || std::isinf(o.temperature))
    fail_input("temperature is ", o.temperature, ", not a number from 0 up");
  if (o.top_k < 0) fail_input("top_k is ", o.top_k, ", a negative number");
  if (!(o.top_p > 0 && o.top_p <= 1)) fail_input("top_p is ", o.top_p, ", not in (0, 1]");
  if (!(o.min_p >= 0 && o.min_p <= 1)) fail_input("min_p is ", o.min_p, ", not in [0, 1]");
  if (!(o.repeat_penalty > 0) || std::isinf(o.repeat_penalty))
    fail_input("repeat_penalty is ", o.repeat_penalty, ", not positive");
}

void Sampler::accept(int token) {
  recent_.push_back(token);
  if (recent_.size() > kPenaltyWindow) recent_.pop_front();
}

// SplitMix64 (Steele, Lea, Flood 2014).
double Sampler::uniform() {
  uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

// Keskar et al. 2019 (CTRL): positive logits are divided, negative ones multiplied.
void Sampler::penalise() {
  const auto penalty = static_cast<float>(options_.repeat_penalty);
  for (int id : std::set<int>(recent_.begin(), recent_.end())) {
    if (id < 0 || static_cast<size_t>(id) >= logits_.size()) continue;
    float& logit = logits_[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / penalty : logit * penalty;
  }
}

int Sampler::sample(const float* logits, int n_vocab) {
  if (!logits) fail_input("[sampler] there are no logits: feed the sequence first");
  check_finite(logits, n_vocab);
  if (options_.repeat_penalty == 1.0 && options_.temperature == 0.0) return likeliest(logits, n_vocab);
  logits_.assign(logits, logits + n_vocab);
  if (options_.repeat_penalty != 1.0) penalise();
  return options_.temperature == 0.0 ? likeliest(logits_.data(), n_vocab) : draw();
}

int Sampler::draw() {
  const float max = logits_[static_cast<size_t>(likeliest(logits_.data(), static_cast<int>(logits_.size())))];
  const size_t n = logits_.size();
  candidates_.clear();
  for (size_t i = 0; i < n; ++i) candidates_.push_back({logits_[i], static_cast<int>(i)});

  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  const auto after = [&](const Candidate& a, const Candidate& b) { return before(b, a); };
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + (options_.top_k - 1), candidates_.end(), before);
    candidates_.resize(static_cast<size_t>(options_.top_k));
  }
  if (options_.top_p < 1.0) {
    double total = 0;
    for (const Candidate& c : candidates_) total += std::exp(static_cast<double>(c.logit) - max);
    std::make_heap(candidates_.begin(), candidates_.end(), after);
    double sum = 0;
    size_t kept = 0;
    while (kept < candidates_.size() && sum < options_.top_p * total) {
      std::pop_heap(candidates_.begin(), candidates_.end() - static_cast<std::ptrdiff_t>(kept), after);
      ++kept;
      sum += std::exp(static_cast<double>(candidates_[candidates_.size() - kept].logit) - max);
    }
    candidates_.erase(candidates_.begin(), candidates_.end() - static_cast<std::ptrdiff_t>(std::max<size_t>(kept, 1)));
  }
  if (options_.min_p > 0) {
    const double floor = max + std::log(options_.min_p);
    candidates_.erase(
        std::remove_if(candidates_.begin(), candidates_.end(), [&](const Candidate& c) { return c.logit < floor; }),
        candidates_.end());
  }
  const auto weight = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.logit) - max) / options_.temperature);
  };
  double total = 0;
  for (const Candidate& c : candidates_) total += weight(c);
  double left = uniform() * total;
  for (const Candidate& c : candidates_) {
    left -= weight(c);
    if (left < 0) return c.id;
  }
  return candidates_.back().id;
}

double log_probability(const float* logits, int n_vocab, int token) {
  const float max = *std::max_element(logits, logits + n_vocab);
  return static_cast<double>(logits[token]) - max -
         std::log(static_cast<double>(active_table().sum_exp(logits, max, n_vocab)));
}

}  // namespace lora_edge
