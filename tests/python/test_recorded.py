"""Logits and greedy ids against what transformers and PEFT computed, recorded by tools/record_model_fixtures.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lora_edge.model import Model
from reference import Reference

MODELS = Path(__file__).resolve().parents[1] / "fixtures" / "models"
NAMES = ["llama", "llama_bias", "qwen2", "qwen3"]
ADAPTERS = ["plain", "patterns", "ends"]
BOUND = 1e-3


class Recorded:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with np.load(folder / "expected.npz") as file:
            self.expected = {key: file[key] for key in file.files}
        self.ids = [int(i) for i in self.expected["ids"]]


@pytest.fixture(scope="module", params=NAMES)
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(MODELS / request.param)


@pytest.fixture
def model(recorded: Recorded) -> Iterator[Model]:
    with Model(recorded.folder / "base.gguf", kv_type="f32") as model:
        for name in ADAPTERS:
            model.load_adapter(recorded.folder / name)
        model.load_adapter(recorded.folder / "patterns.gguf", name="patterns as GGUF")
        yield model


def test_logits(recorded: Recorded, model: Model) -> None:
    specs = {
        "base": None, "plain": "plain", "patterns": "patterns", "ends": "ends", "both": {"plain": 0.7, "ends": -1.3},
        "patterns as GGUF": "patterns as GGUF",
    }  # fmt: skip
    base = recorded.expected["base"]
    assert base.std() >= 1
    for name, spec in specs.items():
        wanted = recorded.expected[name.removesuffix(" as GGUF")]
        assert np.abs(model.logits(recorded.ids, adapter=spec) - wanted).max() <= BOUND, name
        assert name == "base" or np.abs(wanted - base).max() >= 100 * BOUND


def test_greedy_ids(recorded: Recorded, model: Model) -> None:
    for name in ("base", "plain"):
        wanted = recorded.expected[f"greedy {name}"].tolist()
        made = model.complete(
            recorded.ids[:4], adapter=None if name == "base" else name, max_tokens=len(wanted), ignore_eos=True
        )
        assert made.ids == wanted
    assert recorded.expected["greedy base"].tolist() != recorded.expected["greedy plain"].tolist()


def test_the_reference_agrees(recorded: Recorded) -> None:
    """The numpy decoder that judges the engine elsewhere is itself judged here."""
    assert (
        np.abs(Reference(recorded.folder / "base.gguf").logits(recorded.ids) - recorded.expected["base"]).max() <= 1e-4
    )


def test_size() -> None:
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) <= 300_000
