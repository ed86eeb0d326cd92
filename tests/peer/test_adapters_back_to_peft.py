"""What we write as PEFT folders, PEFT itself loads, and its logits are those of the adapter it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from lora_edge.convert import convert_adapter, convert_model
from peer_models import ADAPTERS, fresh_rng, logits_of, random_adapter, random_model
from test_adapter_kinds_hf import KINDS

BOUND = 2e-4  # PEFT's own float32 sums, in another order where scales were folded
ALORA = {"activated": {"alora_invocation_tokens": [17, 4], "target_modules": ["q_proj", "down_proj"]}}


@pytest.mark.parametrize("cls", ["Llama", "Qwen2"])
@pytest.mark.parametrize("kind", {**ADAPTERS, **KINDS, **ALORA})
def test_peft_loads_what_was_a_gguf(tmp_path: Path, cls: str, kind: str) -> None:
    rng = fresh_rng()
    source = random_model(cls, rng, tie_word_embeddings=kind != "token rows of both ends" and bool(rng.integers(2)))
    source.save_pretrained(tmp_path / "base")
    ids = [3, 88, 41, 7, 5, 6, 17, 4, *(int(i) for i in rng.integers(0, source.config.vocab_size, 20))]
    alone = logits_of(source, ids)
    adapted = random_adapter(source, tmp_path / "adapter", **{**ADAPTERS, **KINDS, **ALORA}[kind])
    wanted = logits_of(adapted, ids)
    assert np.abs(wanted - alone).max() >= 0.1
    base = convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")
    file = convert_adapter(tmp_path / "adapter", base, tmp_path / "adapter.gguf")
    convert_adapter(file, base, tmp_path / "again", type=None)
    convert_adapter(tmp_path / "adapter", base, tmp_path / "copy", to="peft", type=None)
    for folder in ("again", "copy"):
        fresh: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
        loaded = peft.PeftModel.from_pretrained(fresh, str(tmp_path / folder)).eval()
        assert np.abs(logits_of(loaded, ids) - wanted).max() <= BOUND * max(1.0, float(wanted.std())), folder
