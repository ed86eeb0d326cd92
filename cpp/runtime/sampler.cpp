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

bool is_finite(const float* logits, int n_vocab) {
  uint32_t not_finite = 0;
  for (int i = 0; i < n_vocab; ++i) {
    uint32_t bits;
    std::memcpy(&bits, logits + i, 4);
    not_finite |= (bits & 0x7f800000u) == 0x7f800000u;
  }
  return !not_finite;
}

void check(bool finite) {
  if (!finite)
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
float Sampler::penalised(float logit) const {
  const auto penalty = static_cast<float>(options_.repeat_penalty);
  return logit > 0 ? logit / penalty : logit * penalty;
}

int Sampler::sample(const float* logits, int n_vocab) {
  if (!logits) fail_input("[sampler] there are no logits: feed the sequence first");
  check(is_finite(logits, n_vocab));
  if (options_.repeat_penalty == 1.0 && options_.temperature == 0.0)
    return static_cast<int>(std::max_element(logits, logits + n_vocab) - logits);
  candidates_.clear();
  for (int i = 0; i < n_vocab; ++i) candidates_.push_back({logits[i], i});
  if (options_.repeat_penalty != 1.0)
    for (int id : std::set<int>(recent_.begin(), recent_.end()))
      if (id >= 0 && id < n_vocab) {
        float& logit = candidates_[static_cast<size_t>(id)].logit;
        logit = penalised(logit);
      }
  return choose();
}

// A penalty can take some of the likeliest away, and one below 1 bring others.
bool Sampler::is_enough(const Likeliest& likeliest) const {
  const size_t n = likeliest.candidates.size();
  const size_t wanted = options_.temperature == 0.0 ? 1 : static_cast<size_t>(options_.top_k);
  return wanted > 0 && options_.repeat_penalty >= 1.0 &&
         wanted + (options_.repeat_penalty > 1.0 ? kPenaltyWindow : 0) <= n;
}

int Sampler::sample(const Likeliest& likeliest) {
  check(likeliest.finite);
  candidates_ = likeliest.candidates;
  if (options_.repeat_penalty != 1.0)
    for (Candidate& c : candidates_)
      if (std::find(recent_.begin(), recent_.end(), c.id) != recent_.end()) c.logit = penalised(c.logit);
  return choose();
}

int Sampler::choose() {
  const Candidate first = *std::min_element(candidates_.begin(), candidates_.end(), likelier);
  if (options_.temperature == 0.0) return first.id;
  const float max = first.logit;
  const auto after = [](const Candidate& a, const Candidate& b) { return likelier(b, a); };
  if (options_.top_k > 0) {  // in order: the same draw means the same token, wherever the candidates come from
    const auto kept = static_cast<std::ptrdiff_t>(std::min(static_cast<size_t>(options_.top_k), candidates_.size()));
    std::partial_sort(candidates_.begin(), candidates_.begin() + kept, candidates_.end(), likelier);
    candidates_.resize(static_cast<size_t>(kept));
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

double log_probability(const Likeliest& likeliest, int token) {
  for (const Candidate& c : likeliest.candidates)
    if (c.id == token) return static_cast<double>(c.logit) - likeliest.log_total;
  fail_input("[sampler] token ", token, " is none of the likeliest");
}

}  // namespace lora_edge
