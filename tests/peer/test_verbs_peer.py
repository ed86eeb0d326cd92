"""merge and extract, judged by PEFT's own merging and by llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from lora_edge.compare import verify
from lora_edge.convert.extract import extract
from lora_edge.convert.merge import merge
from lora_edge.fitting import fit
from lora_edge.model import Model
from peer_models import (
    ADAPTERS,
    VARIANTS,
    fresh_rng,
    logits_of,
    random_adapter,
    random_model,
    real_folder,
    real_model,
    trained_adapter,
    words_of,
)
from test_adapter_kinds_hf import KINDS, texts_of


@pytest.mark.parametrize("kind", ["plain", "per-module rank, rslora", "embedding and head"])
@pytest.mark.parametrize("variant", ["llama", "qwen2"])
def test_merging_equals_pefts(variant: str, kind: str, tmp_path: Path) -> None:
    rng = fresh_rng()
    cls, changes = VARIANTS[variant]
    model = random_model(cls, rng, tie_word_embeddings=False, **changes)
    model.save_pretrained(tmp_path / "base")
    adapted = random_adapter(model, tmp_path / "lora", **ADAPTERS[kind])
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    merge(tmp_path / "base", [(tmp_path / "lora", 1.0)], tmp_path / "merged.gguf", type="f32")
    report = verify(tmp_path / "merged.gguf", tmp_path / "merged")
    assert report.ok and report.type == "f32", report.verdict


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["whole modules", "whole linears", "a whole embedding", "token rows", "lm_head"])
def test_merging_whole_modules_equals_peft(kind: str, tied: bool, tmp_path: Path) -> None:
    rng = fresh_rng()
    model = random_model("Llama", rng, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "base")
    fields = {"modules_to_save": ["lm_head"]} if kind == "lm_head" else KINDS[kind]
    adapted = random_adapter(model, tmp_path / "lora", **fields)
    merge(tmp_path / "base", [(tmp_path / "lora", 1.0)], tmp_path / "merged.gguf", type="f32")
    with Model(tmp_path / "merged.gguf") as ours:
        for ids in texts_of(rng, model.config.vocab_size):
            assert np.abs(ours.logits(ids) - logits_of(adapted, ids)).max() <= 1e-3


@needs_shared
def test_an_extracted_adapter(tmp_path: Path) -> None:
    """Of a GGUF base and a folder of transformers with a rank-8 adapter in its weights: beside the base it says what
    the tuned model says, here and in llama.cpp."""
    rng = fresh_rng()
    base = SHARED / "gguf" / "stories260K-f32.gguf"
    tuned = random_adapter(real_model("stories260K"), tmp_path / "lora", r=8).merge_and_unload()
    tuned.save_pretrained(tmp_path / "tuned")
    report = extract(tmp_path / "tuned", base, tmp_path / "a.gguf", tolerance=1e-3)
    assert {t.rank for t in report.tensors} == {8} and max(t.error for t in report.tensors) <= 1e-3
    ids = [int(i) for i in rng.integers(0, tuned.config.vocab_size, 100)]
    with Model(base) as ours:
        ours.load_adapter(tmp_path / "a.gguf")
        assert np.abs(ours.logits(ids, adapter="a") - logits_of(tuned, ids)).max() <= 1e-3
    found = verify(base, "llama.cpp", adapters=[(tmp_path / "a.gguf", 1.0)])
    assert found.ok and found.ids_equal, found.verdict


@needs_shared
def test_fit_repairs_a_trained_adapter(tmp_path: Path) -> None:
    """On text that neither the adapter nor the fit has seen, outputs of linears and logits come closer."""
    fresh_rng()
    file = SHARED / "datasets" / "tinyshakespeare_first_90.txt"
    trained_adapter(real_model("TinyStories-656K"), tmp_path / "lora", words_of("TinyStories-656K", file.name, 4096))
    text = file.read_text("utf-8")[100_000:]
    out = tmp_path / "fitted.gguf"
    base = SHARED / "gguf" / "TinyStories-656K-q8_0.gguf"
    report = fit(base, tmp_path / "lora", real_folder("TinyStories-656K"), out, text=text)
    print(f"outputs {report.before:.2e} -> {report.after:.2e}, KL {report.logits_before.kl:.2e} -> "
          f"{report.logits_after.kl:.2e}")  # fmt: skip
    assert all(t.after < t.before for t in report.tensors)
    assert report.after < 0.9 * report.before and report.logits_after.kl < report.logits_before.kl
