// The likeliest tokens of a row of logits, which a device finds where the logits are.
#pragma once

#include <vector>

namespace lora_edge {

struct Candidate {
  float logit;
  int id;
};

// The order of candidates: by logit; of equal ones the first token.
inline bool likelier(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

struct Likeliest {
  std::vector<Candidate> candidates;  // in order; those left out come after them
  double log_total = 0;               // log Σ exp(logit) of the whole row
  bool finite = true;                 // the whole row is
};

}  // namespace lora_edge
