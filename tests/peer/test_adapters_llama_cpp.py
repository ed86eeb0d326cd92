"""llama.cpp on GGUF adapters that it can't run: it refuses them, so that none means something else there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp_runs import N_VOCAB, give_tokenizer
from lora_edge.compare.llama_cpp import LlamaCpp
from lora_edge.convert import convert_adapter, convert_model
from peer_models import fresh_rng, logits_of, random_adapter, random_model

REFUSED: dict[str, tuple[bool, dict[str, Any]]] = {
    "dora": (False, {"use_dora": True}),
    "bias in lora_B": (False, {"lora_bias": True}),
    "whole modules": (False, {"modules_to_save": ["down_proj"], "target_modules": ["q_proj"]}),
    "a tied embedding alone": (True, {"target_modules": ["embed_tokens", "q_proj"]}),
    "token rows of tied ends": (True, {"trainable_token_indices": [5, 9]}),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(tmp_path: Path, kind: str) -> None:
    tied, config = REFUSED[kind]
    source = random_model("Llama", fresh_rng(), vocab_size=N_VOCAB, tie_word_embeddings=tied)
    source.save_pretrained(tmp_path / "base")
    give_tokenizer(tmp_path / "base")
    base = convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")
    LlamaCpp(base, None, 1.0).close()
    random_adapter(source, tmp_path / "adapter", **config)
    lora = convert_adapter(tmp_path / "adapter", tmp_path / "base", tmp_path / "adapter.gguf")
    with pytest.raises(ValueError, match=r"llama\.cpp ended on 'open'.*refuses the adapter"):
        LlamaCpp(base, lora, 1.0)


@pytest.mark.parametrize("type", ["f16", "q8_0"])
@pytest.mark.parametrize("config", [{"trainable_token_indices": [5, 9]}, {"use_rslora": True, "r": 32}])
def test_run_as_here(tmp_path: Path, type: str, config: dict[str, Any]) -> None:
    """Trained rows as factors, and factors in narrow types, within what these round."""
    rng = fresh_rng()
    source = random_model("Qwen2", rng, vocab_size=N_VOCAB, tie_word_embeddings=False)
    source.save_pretrained(tmp_path / "base")
    give_tokenizer(tmp_path / "base")
    base = convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")
    adapted = random_adapter(source, tmp_path / "adapter", **config)
    lora = convert_adapter(tmp_path / "adapter", tmp_path / "base", tmp_path / "adapter.gguf", type=type)
    ids = [3, 5, 9, *(int(i) for i in rng.integers(3, N_VOCAB, 40))]
    wanted, alone = logits_of(adapted, ids), LlamaCpp(base, None, 1.0)
    with_adapter = LlamaCpp(base, lora, 1.0)
    difference = np.abs(with_adapter.logits(ids) - wanted).max()
    moved = np.abs(alone.logits(ids) - wanted).max()
    alone.close()
    with_adapter.close()
    assert difference <= 0.1 * moved, f"{difference} of {moved}"
