"""One prompt computed once, continued in several ways: forks share the keys and values of their past."""

import lora_edge

with lora_edge.load() as model:
    prompt = model.sequence()
    prompt.feed(model.tokenize("turn off the lights in the"))
    for seed in range(3):
        text = prompt.fork().generate(temperature=1.0, seed=seed, max_tokens=32)
        print(f"{seed}: {text!r}")
