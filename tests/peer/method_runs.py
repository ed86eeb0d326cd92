"""Runs of the trainer on tiny random models and random ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lora_edge
import numpy as np
from lora_edge.train.data import Data, Example
from lora_edge.train.method import Method
from lora_edge.train.methods import method_class
from lora_edge.train.network import Network
from lora_edge.train.settings import Settings
from lora_edge.train.trainer import Plan, Trainer
from tiny_gguf import spm_vocab
from tiny_models import Shape, random_ids, random_shape, random_tensors, write_model


def base_file(path: Path, rng: np.random.Generator, arch: str = "llama", type: str = "f32", **changes: Any) -> Shape:
    """A random model of 2 layers whose matrices fit into blocks, with a vocabulary."""
    shape = random_shape(rng, arch, whole_blocks=True, **{"n_layer": 2, "rope_factors": False, **changes})
    write_model(path, shape, random_tensors(rng, shape), type, spm_vocab(shape.n_vocab))
    return shape


def random_data(rng: np.random.Generator, shape: Shape, n: int = 24, pairs: bool = False) -> Data:
    """Examples of 8 to 20 random ids, the first of them a prompt; an eighth more as valid."""

    def side(line: int, prompt: list[int]) -> Example:
        ids = prompt + random_ids(rng, shape, int(rng.integers(5, 18)))
        return Example(np.array(ids, np.int32), np.arange(len(ids)) >= len(prompt), line, len(prompt))

    def example(line: int) -> Example:
        prompt = random_ids(rng, shape, 3)
        one, other = side(line, prompt), side(line, prompt)
        return Example(one.ids, one.learn, line, 3, rejected=other) if pairs else one

    return Data([example(i) for i in range(n)], [example(i) for i in range(n // 4)], [])


def trainer(path: Path, data: Data, out: Path, under: dict[str, float] | None = None, **settings: Any) -> Trainer:
    """A run of 6 steps of 4 examples, ready to begin."""
    from lora_edge.train.methods.lora import add_frozen

    options = tuple(sorted(settings.pop("options", {}).items()))
    chosen = Settings(**{"steps": 6, "batch_size": 4, "lr": 1e-2, "rank": 4, "options": options, **settings})
    chosen.check()
    network = Network(lora_edge.load(path, threads=1))
    if under:
        add_frozen(network, under)
    method: Method = method_class(chosen.method)(network, chosen)
    return Trainer(method, chosen, data, out, Plan(log_every=1), say=lambda line: None)


def runtime_loss(path: Path, examples: list[Example]) -> float:
    """Mean loss of learned tokens by the runtime, in nats."""
    model = lora_edge.load(path, threads=1)
    total = n = 0.0
    for e in examples:
        scores = model.score(e.ids.tolist())
        total -= float(scores[e.learn[1:]].sum())
        n += int(e.learn[1:].sum())
    return total / n
