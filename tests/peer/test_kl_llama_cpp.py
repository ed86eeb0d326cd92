"""Quality of the INT8 path on real text, with llama.cpp on the same Q8_0 file as the measure.

p is the float32 model in transformers (with PEFT's adapter). KL(p‖ours) is what quantised weights and activations, and
an f16 KV cache, cost here; llama.cpp quantises both likewise, so its KL is what they have to cost.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from llama_cpp_runs import llama_cpp_logits
from lora_edge.convert import convert_adapter
from lora_edge.model import Model
from peer_models import REAL, fresh_rng, logits_of, real_model, trained_adapter, words_of

WINDOW, WINDOWS = 256, 10  # 2,560 positions


def log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p‖q) in nats at each position, of logits [n, n_vocab]."""
    lp, lq = log_softmax(p), log_softmax(q)
    return np.asarray((np.exp(lp) * (lp - lq)).sum(axis=-1))


@needs_shared
@pytest.mark.parametrize("adapter", ["base", "f16", "f32"])
@pytest.mark.parametrize("name", REAL)
def test_kl(tmp_path: Path, name: str, adapter: str) -> None:
    fresh_rng()
    file = SHARED / "gguf" / f"{name}-q8_0.gguf"
    text = words_of(name, "tinystories_1.5MiB.txt", WINDOW * WINDOWS)
    windows = [text[i : i + WINDOW] for i in range(0, len(text), WINDOW)]
    source = real_model(name)
    lora = None
    if adapter != "base":
        alone = logits_of(source, windows[0])
        source = trained_adapter(source, tmp_path / "peft", words_of(name, "tinyshakespeare_first_90.txt", 4096))
        assert kl(logits_of(source, windows[0]), alone).mean() > 0.1  # the adapter matters far more than the rounding
        lora = convert_adapter(tmp_path / "peft", file, tmp_path / "adapter.gguf", type=adapter)

    wanted = [logits_of(source, ids) for ids in windows]
    with Model(file) as model:
        if lora:
            model.load_adapter(lora, name="adapter")
        ours = [model.logits(ids, adapter="adapter" if lora else None) for ids in windows]
    theirs = llama_cpp_logits(file, windows, lora)

    our_kl = np.concatenate([kl(p, q) for p, q in zip(wanted, ours, strict=True)])
    their_kl = np.concatenate([kl(p, q) for p, q in zip(wanted, theirs, strict=True)])
    assert len(our_kl) >= 2000
    ratio = our_kl.mean() / their_kl.mean()
    print(f"{name}, {adapter}: KL ours {our_kl.mean():.3e}, llama.cpp {their_kl.mean():.3e}, ratio {ratio:.3f}")
    assert ratio <= 1.1
