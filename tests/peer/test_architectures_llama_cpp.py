"""Random tiny GGUF files of every decoder architecture: the same top-1 and close logits in llama.cpp, alone and with an
adapter on every linear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp_runs import GELU_BOUND, N_VOCAB, assert_same, exact_logits
from lora_edge.model import Model
from tiny_gguf import spm_vocab
from tiny_models import (
    ARCHS,
    fresh_rng,
    random_factors,
    random_ids,
    random_shape,
    random_tensors,
    write_adapter,
    write_model,
)

GELU = ("gemma2", "gemma3", "gpt2")
SQUARE = ("qwen2", "phi3", "gpt2", "olmo2", "stablelm")  # their heads are n_embd / n_head wide in llama.cpp
TIED: dict[str, bool] = {"gemma2": True, "gemma3": True, "olmo2": False, "stablelm": False}
N_IDS = 120


def limits(rng: np.random.Generator, arch: str) -> dict[str, Any]:
    """What llama.cpp expects beyond what we do."""
    fields: dict[str, Any] = {"n_vocab": N_VOCAB, "tied": TIED.get(arch, False), "n_ctx": 256, "rope_linear": None}
    if arch in SQUARE:
        n_kv = int(rng.integers(1, 4))
        n_head = n_kv * (1 if arch == "gpt2" else int(rng.integers(1, 4)))
        head_dim = 8 * int(rng.integers(2, 5))
        fields |= {"n_kv": n_kv, "n_head": n_head, "head_dim": head_dim, "d": n_head * head_dim}
    if arch in ("llama", "qwen2", "phi3"):  # whose windows llama.cpp doesn't have
        fields |= {"window": 0}
    if arch in ("llama", "qwen2"):
        fields |= {"extra": {}}
    if arch == "phi3":
        fields |= {"n_rot": head_dim // 2}
    return fields


@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("arch", ARCHS)
def test_logits(tmp_path: Path, arch: str, draw: int) -> None:
    rng = fresh_rng()
    shape = random_shape(rng, arch, **limits(rng, arch))
    base = write_model(tmp_path / "base.gguf", shape, random_tensors(rng, shape), vocabulary=spm_vocab(N_VOCAB))
    names = [name for name in shape.linears if name not in ("token_embd.weight", "output.weight")]
    lora = write_adapter(tmp_path / "lora.gguf", arch, random_factors(rng, shape, names, r=4), alpha=6.0)
    ids = random_ids(rng, shape, N_IDS)
    bound = GELU_BOUND if arch in GELU else 1e-3
    with Model(base) as model:
        model.load_adapter(lora)
        for adapter in (None, "lora"):
            wanted = model.logits(ids, adapter=adapter)
            assert_same(exact_logits(base, ids, lora if adapter else None), wanted, bound)
