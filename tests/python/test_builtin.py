"""The model in the wheel: its size, and exact match of its answers to requests it was never trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import lora_edge
import pytest

FOLDER = Path(lora_edge.__file__).parent / "builtin"
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
VIEWS = ("base", "json", "german")


@pytest.fixture(scope="module")
def home() -> Iterator[lora_edge.Model]:
    with lora_edge.load() as model:
        assert set(model.adapters) == set(VIEWS[1:])
        yield model


def test_size() -> None:
    sizes = {file.name: file.stat().st_size for file in FOLDER.glob("*.gguf")}
    assert set(sizes) == {f"{view}.gguf" for view in VIEWS}
    assert sum(sizes.values()) <= 6_000_000, sizes


@pytest.mark.slow
@pytest.mark.parametrize(("view", "at_least"), [("base", 0.90), ("json", 0.90), ("german", 0.90)])
def test_held_out_exact_match(home: lora_edge.Model, view: str, at_least: float) -> None:
    samples = json.loads((FIXTURES / "builtin_heldout.json").read_text(encoding="utf-8"))
    assert len(samples) >= 200 and all(s["split"] != "train" for s in samples)
    adapter = None if view == "base" else view
    given: list[str] = []
    for i in range(0, len(samples), 25):
        part = [s["text"] for s in samples[i : i + 25]]
        given += home.generate_batch(part, adapters=[adapter] * len(part), max_tokens=128)
    pairs = zip(samples, given, strict=True)
    wrong = [(s["text"], s["answers"][view], g) for s, g in pairs if s["answers"][view] != g]
    assert 1 - len(wrong) / len(samples) >= at_least, wrong


@pytest.mark.parametrize(
    "text",
    [
        "turn on the kitchen light",
        "Turn on the kitchen light.",
        "turn on the kitchen light\n",
        "please turn on the kitchen light!\n",
        "Could you turn the kitchen light on?",
        "TURN ON THE KITCHEN LIGHT",
    ],
)
def test_raw_prompt_is_enough(home: lora_edge.Model, text: str) -> None:
    """No template: however the request is typed, the text that comes back is the answer and nothing else."""
    assert home.generate(text) == "Okay, the kitchen light is on."
    assert home.generate(text, adapter="json") == '{"device":"light","room":"kitchen","action":"on"}'
    assert home.generate(text, adapter="german") == "Alles klar, das Licht in der Küche ist an."


def test_generate_without_a_model() -> None:
    text = "lock the front door in ten minutes"
    assert lora_edge.generate(text) == "Okay, I will lock the front door in 10 minutes."
    assert json.loads(lora_edge.generate(text, adapter="json")) == {
        "device": "lock", "name": "front door", "action": "lock", "in_minutes": 10,
    }  # fmt: skip


def test_chat_template(home: lora_edge.Model) -> None:
    turns = [{"role": "user", "content": "turn on the kitchen light"}]
    assert home.chat(turns) == "Okay, the kitchen light is on."
    turns += [{"role": "assistant", "content": "Okay, the kitchen light is on."},
              {"role": "user", "content": "it's freezing in the study"}]  # fmt: skip
    assert home.chat(turns) == "Okay, the study heating is turned up."


def test_prose_goes_on_as_prose(home: lora_edge.Model) -> None:
    text = home.generate("How to sleep well: First,", max_tokens=60)
    assert len(text.split()) > 15 and "Okay" not in text
