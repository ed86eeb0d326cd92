// What DoRA's row norms are made of, from the base as it is deployed.
#pragma once

#include "backend/backend.h"
#include "runtime/load_adapter.h"

namespace lora_edge {

// Fills `squares`, `products` and `low_rank_squares` of `extra` for W [n, k] dequantised and factors A [r, k], B [n,
// r]; for the embedding, A [n, r] and B [k, r], per column of W. Reads W once: the cost is that of W·Aᵀ.
void measure_rows(const Weight& w, const Factor& a, const Factor& b, bool embedding, LoraExtra& extra);

}  // namespace lora_edge
