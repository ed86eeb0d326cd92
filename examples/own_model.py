"""A model and an adapter of your own: python examples/own_model.py base.gguf my-peft-folder "Once upon a time" """

import sys

import lora_edge

if len(sys.argv) != 4:
    sys.exit(__doc__)
base, adapter, prompt = sys.argv[1:]

with lora_edge.load(base) as model:
    model.load_adapter(adapter, name="mine")
    for weight in (0.0, 0.5, 1.0):  # mixed in by weight, per call; the base stays as it is
        text = model.generate(prompt, adapter={"mine": weight}, max_tokens=48)
        print(f"--- adapter at {weight}\n{prompt}{text}\n")
