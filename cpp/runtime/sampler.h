// Chooses the next token from logits. The chain and its parameters are llama.cpp's: repeat penalty over the last 64
// tokens, top-k, top-p, min-p, temperature. The same seed gives the same choices, whatever the number of threads.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "backend/likeliest.h"

namespace lora_edge {

struct SamplerOptions {
  double temperature = 0.0;  // 0: the most likely token
  int top_k = 0;             // 0: all
  double top_p = 1.0;
  double min_p = 0.0;
  double repeat_penalty = 1.0;
  uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options);  // InputError names an option that makes no sense

  void accept(int token);  // a token of the text, for the repeat penalty
  int sample(const float* logits, int n_vocab);
  // The same from the likeliest alone, where they are enough.
  bool is_enough(const Likeliest& likeliest) const;
  int sample(const Likeliest& likeliest);

 private:
  double uniform();  // [0, 1)
  float penalised(float logit) const;
  int choose();

  SamplerOptions options_;
  uint64_t state_;
  std::deque<int> recent_;
  std::vector<Candidate> candidates_;
};

// log softmax(logits)[token]; of the likeliest, one of these.
double log_probability(const float* logits, int n_vocab, int token);
double log_probability(const Likeliest& likeliest, int token);

}  // namespace lora_edge
