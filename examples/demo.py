"""One INT8 base answers three ways: as itself and with two adapters beside it, never merged."""

import lora_edge

PROMPTS = [
    "could you turn on the kitchen light",
    "it's freezing in the study",
    "lock the front door in ten minutes",
]

with lora_edge.load() as model:
    size = model.memory()
    print(
        f"base: {size['file'] / 1e6:.1f} MB on disk, mapped once; adapters beside it: {size['adapters'] / 1e6:.2f} MB\n"
    )
    ways = [None, *model.adapters]
    for prompt in PROMPTS:
        print(f"{'you':>8} | {prompt}")
        # One batch: the same prompt in one pass over the base, each row with its own adapter.
        for way, text in zip(ways, model.generate_batch([prompt] * len(ways), adapters=ways, max_tokens=64)):
            print(f"{way or 'base':>8} | {text.strip()}")
        print()
    c = model.complete(PROMPTS[0], adapter=ways[-1], max_tokens=64)
    print(f"{c.timings.tokens_per_second:,.0f} tokens/s with an adapter, kernels: {lora_edge.runtime_info()['isa']}")
