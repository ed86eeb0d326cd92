"""Activated LoRA against PEFT's: logits and greedy ids, wherever the invocation tokens are, however a text is fed, with
the base's keys and values reused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lora_edge.convert import convert_adapter, convert_model
from lora_edge.model import Model
from peer_models import fresh_rng, logits_of, random_adapter, random_model

BOUND = 1e-3
CALL = [17, 4, 17, 9]  # begins like itself


class Pair(NamedTuple):
    ours: Model
    theirs: Any
    rng: np.random.Generator

    def ids(self, n: int) -> list[int]:
        """Random ids without the invocation's first token."""
        return [int(i) for i in self.rng.integers(20, self.theirs.config.vocab_size, n)]


@pytest.fixture(params=["Llama", "Qwen2"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    rng = fresh_rng()
    source = random_model(request.param, rng)
    source.save_pretrained(tmp_path / "base")
    targets = ["q_proj", "v_proj", "o_proj", "down_proj"]
    adapted = random_adapter(source, tmp_path, name="call", target_modules=targets, alora_invocation_tokens=CALL)
    random_adapter(adapted, tmp_path, name="other", r=3, target_modules=targets)
    adapted.set_adapter("call")
    base = convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")
    with Model(base) as ours:
        ours.load_adapter(tmp_path / "call")
        ours.load_adapter(tmp_path / "other")
        ours.load_adapter(convert_adapter(tmp_path / "call", base, tmp_path / "file.gguf"))
        yield Pair(ours, adapted, rng)


def prompts(pair: Pair) -> list[list[int]]:
    ids = pair.ids
    return [
        ids(30), CALL, CALL + ids(20), ids(20) + CALL, ids(70) + CALL + ids(80), ids(9) + CALL + ids(5) + CALL + ids(7),
        ids(20) + CALL[:3] + ids(10), ids(5) + CALL[:2] + CALL + ids(3), ids(300) + CALL + ids(40),
    ]  # fmt: skip


def test_logits(pair: Pair) -> None:
    for text in prompts(pair):
        wanted = logits_of(pair.theirs, text)
        for adapter in ("call", "file"):
            assert np.abs(pair.ours.logits(text, adapter=adapter) - wanted).max() <= BOUND
        at = next((i for i in range(len(text) - 3, -1, -1) if text[i : i + 4] == CALL), len(text))
        base, made = pair.ours.logits(text), pair.ours.logits(text, adapter="call")
        assert np.array_equal(made[:at], base[:at])
        assert at == len(text) or np.abs(made[at:] - base[at:]).max() >= 100 * BOUND


def test_greedy_ids(pair: Pair) -> None:
    for text in prompts(pair):
        ids = torch.tensor([text])
        options = {"max_new_tokens": 30, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        with torch.no_grad():
            out = pair.theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        for speculative in (None, "prompt-lookup"):
            made = pair.ours.complete(text, adapter="call", max_tokens=30, ignore_eos=True, speculative=speculative)
            assert made.ids == out[0, len(text) :].tolist()


def test_the_base_s_keys_and_values_serve(pair: Pair) -> None:
    """A text computed by the base goes on with the adapter, and nothing of it is computed again."""
    before, after = pair.ids(70), pair.ids(6)
    sequence = pair.ours.sequence()
    sequence.feed(before)
    for _ in range(2):
        fork = sequence.fork()
        fork.adapter = "call"
        assert len(fork.core) == len(before)
        fork.feed(CALL + after)
        assert np.abs(fork.logits() - logits_of(pair.theirs, before + CALL + after)[-1]).max() <= BOUND
        assert np.array_equal(fork.logits(), pair.ours.logits(before + CALL + after, adapter="call", last=1)[0])


def test_pieces(pair: Pair) -> None:
    """However a text is fed, cut back and fed again, it is the whole text whose last invocation counts."""
    text = pair.ids(20) + CALL + pair.ids(9) + CALL + pair.ids(12)
    wanted = pair.ours.logits(text, adapter="call")
    for size in (1, 2, 3, 7, 30):
        sequence = pair.ours.sequence(adapter="call")
        for at in range(0, len(text), size):
            sequence.feed(text[at : at + size])
            piece = text[: at + size]
            assert np.array_equal(sequence.logits(), pair.ours.logits(piece, adapter="call", last=1)[0])
        sequence.truncate(25)
        assert np.array_equal(sequence.logits(), pair.ours.logits(text[:25], adapter="call", last=1)[0])
        sequence.truncate(22)  # within the first invocation: the base alone
        assert np.array_equal(sequence.logits(), pair.ours.logits(text[:22], last=1)[0])
        sequence.feed(text[22:])
        assert np.array_equal(sequence.logits(), wanted[-1])
    late = pair.ours.sequence()
    late.feed(text)
    late.adapter = "call"
    assert np.array_equal(late.logits(), wanted[-1])


def test_a_batch_of_everything(pair: Pair) -> None:
    ours, texts = pair.ours, prompts(pair)
    specs = [("call", None, "other", {"call": 1.0, "other": 0.5})[i % 4] for i in range(len(texts))]
    options = [{"max_tokens": 12, "ignore_eos": True}] * len(texts)
    alone = [ours.run([ours.sequence(adapter=a)], [t], options[:1])[0].ids for t, a in zip(texts, specs, strict=True)]
    together = ours.run([ours.sequence(adapter=a) for a in specs], texts, options)
    assert [c.ids for c in together] == alone
