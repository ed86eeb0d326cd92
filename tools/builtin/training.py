"""The examples that the base and the adapters learn from, and their runs on lora_edge's own trainer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from domain.notes import note
from domain.samples import draw_from, misspell, record
from lora_edge.model import Model
from lora_edge.tokenizer import Tokenizer
from lora_edge.train import Plan, train
from lora_edge.train.data import Data, Example

# The base learns all three answers: the English one for a request as it is, the others where a tag asks for them.
# An adapter then makes one of these the answer to the request as it is.
TAGS = {"json": "\nJSON:\n", "german": "\nGerman:\n"}
TAGGED = 0.5  # share of the base's requests that carry a tag
ROWS = 48  # examples a step: about 1,600 tokens


def _sample(tok: Tokenizer, view: str, rng: random.Random) -> tuple[list[int], list[bool]]:
    """BOS, request, maybe a newline, answer, EOS. Only the answer and EOS are learned, so that the model answers as
    soon as the text stops instead of guessing on."""
    sample = draw_from(lambda s: s.split == "train", rng)
    text = misspell(sample.text, rng) if rng.random() < 0.06 else sample.text
    ending = rng.choice(("", "\n"))
    if view == "base" and rng.random() < TAGGED:
        view = rng.choice(list(TAGS))
        ending = TAGS[view]
    asked = tok.encode(text + ending)
    answer = [*tok.encode(sample.answers[view], add_bos=False), _eos(tok)]
    return asked + answer, [False] * len(asked) + [True] * len(answer)


def _note(tok: Tokenizer, rng: random.Random) -> tuple[list[int], list[bool]]:
    text = note(rng) if rng.random() < 0.5 else record(rng)
    ids = [*tok.encode(text), _eos(tok)]
    return ids, [False] + [True] * (len(ids) - 1)


def _eos(tok: Tokenizer) -> int:
    assert tok.eos_id is not None
    return tok.eos_id


def _example(tok: Tokenizer, view: str, notes: float, context: int, line: int, rng: random.Random) -> Example:
    """Mostly one document, sometimes several, so that all positions are met."""
    ids: list[int] = []
    learn: list[bool] = []
    for _ in range(1 if rng.random() > 0.06 else rng.randint(2, 5)):
        more = _note(tok, rng) if rng.random() < notes else _sample(tok, view, rng)
        if len(ids) + len(more[0]) > context:
            break
        ids, learn = ids + more[0], learn + more[1]
    return Example(np.array(ids, np.int32), np.array(learn), line)


def examples(tok: Tokenizer, view: str, n: int, *, notes: float, context: int, seed: int) -> list[Example]:
    """n fresh ones; the same seed draws the same."""
    rng = random.Random(seed)
    return [_example(tok, view, notes, context, line, rng) for line in range(1, n + 1)]


def run(
    base: Path,
    view: str,
    out: Path,
    steps: int,
    *,
    notes: float,
    type: str,
    threads: int,
    context: int,
    seed: int,
    say: Callable[[str], None] = print,
    **words: Any,
) -> Path:
    """Trains `base`, or an adapter of it, for `steps` steps on examples that each come once -> the folder `out`."""
    model = Model(base, threads=threads)
    drawn = examples(model.need_tokenizer(), view, steps * ROWS, notes=notes, context=context, seed=seed)
    trained = train(
        model, Data(train=drawn, valid=[], test=[]), out, steps=steps, batch_size=ROWS, max_length=context, seed=seed,
        schedule="cosine", warmup=min(0.1, 100 / steps), type=type, resume=True, plan=Plan(save_every=500), say=say,
        **words,
    )  # fmt: skip
    if not trained.result.finished:
        raise SystemExit(f"{out}: stopped after step {trained.result.steps} of {steps}")
    return out
