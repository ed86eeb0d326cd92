"""Text as it comes, with the model's log-probability of each token."""

import lora_edge

for token in lora_edge.generate("dim the bedroom lamp to thirty percent", adapter="json", stream=True):
    print(f"{token.text!r:>12}  p = {2.718281828**token.logprob:.3f}")
