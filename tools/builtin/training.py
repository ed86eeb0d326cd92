"""The stream of batches and the training loop, for the base and for an adapter alike."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from typing import Any

import torch
from domain.notes import note
from domain.samples import draw_from, misspell, record
from peft import PeftModel
from transformers import PreTrainedTokenizerFast

# The base learns all three answers: the English one for a request as it is, the others where a tag asks for them.
# An adapter then makes one of these the answer to the request as it is.
TAGS = {"json": "\nJSON:\n", "german": "\nGerman:\n"}
TAGGED = 0.5  # share of the base's requests that carry a tag
_IGNORED = -100  # the label of tokens that aren't learned
_POOL = 2048  # rows drawn at once, then sorted by length into batches

Row = tuple[list[int], list[int]]  # ids, labels


def _sample_row(tok: PreTrainedTokenizerFast, view: str, rng: random.Random) -> Row:
    """BOS, request, maybe a newline, answer, EOS. Only the answer and EOS are learned, so that the
    model answers as soon as the text stops instead of guessing on."""
    sample = draw_from(lambda s: s.split == "train", rng)
    text = misspell(sample.text, rng) if rng.random() < 0.06 else sample.text
    ending = rng.choice(("", "\n"))
    if view == "base" and rng.random() < TAGGED:
        view = rng.choice(list(TAGS))
        ending = TAGS[view]
    asked = tok.encode(text + ending)
    answer = [*tok.encode(sample.answers[view], add_special_tokens=False), tok.eos_token_id]
    return asked + answer, [_IGNORED] * len(asked) + answer


def _note_row(tok: PreTrainedTokenizerFast, rng: random.Random) -> Row:
    text = note(rng) if rng.random() < 0.5 else record(rng)
    ids = [*tok.encode(text), tok.eos_token_id]
    return ids, [_IGNORED, *ids[1:]]


def _row(tok: PreTrainedTokenizerFast, view: str, notes: float, context: int, rng: random.Random) -> Row:
    """One row: mostly one document, sometimes several, so that all positions are met."""
    ids: list[int] = []
    labels: list[int] = []
    for _ in range(1 if rng.random() > 0.06 else rng.randint(2, 5)):
        more = _note_row(tok, rng) if rng.random() < notes else _sample_row(tok, view, rng)
        if len(ids) + len(more[0]) > context:
            break
        ids, labels = ids + more[0], labels + more[1]
    return ids, labels


def batches(
    tok: PreTrainedTokenizerFast, view: str, *, tokens: int, notes: float, context: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless fresh batches of (ids, labels), each [rows, length] with about `tokens` tokens."""
    rng = random.Random(seed)
    while True:
        rows = [_row(tok, view, notes, context, rng) for _ in range(_POOL)]
        rows.sort(key=lambda row: len(row[0]))
        groups: list[list[Row]] = [[]]
        for row in rows:
            if len(row[0]) * (len(groups[-1]) + 1) > tokens:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            if not group:
                continue
            length = max(len(ids) for ids, _ in group)
            ids = torch.full((len(group), length), tok.eos_token_id)
            labels = torch.full((len(group), length), _IGNORED)
            for i, (row_ids, row_labels) in enumerate(group):
                ids[i, : len(row_ids)] = torch.tensor(row_ids)
                labels[i, : len(row_labels)] = torch.tensor(row_labels)
            yield ids, labels


def _loss(core: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the learned tokens; logits are computed for those alone."""
    wanted = labels[:, 1:]
    learned = wanted != _IGNORED
    hidden = core.model(input_ids=ids).last_hidden_state[:, :-1][learned]
    return torch.nn.functional.cross_entropy(core.lm_head(hidden), wanted[learned])


def fit(
    model: torch.nn.Module,
    stream: Iterator[tuple[torch.Tensor, torch.Tensor]],
    *,
    steps: int,
    rate: float,
    decay: float,
    label: str,
) -> float:
    """Trains what requires a gradient: AdamW, warm-up, cosine to zero. Returns the last mean loss."""
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    model.train()
    core: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    start, mean, seen = time.time(), math.nan, 0
    for step in range(steps):
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        ids, labels = next(stream)
        loss = _loss(core, ids, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
        seen += ids.numel()
        if (step + 1) % 200 == 0:
            rate_now = seen / (time.time() - start)
            print(f"{label}: step {step + 1}/{steps} loss {mean:.4f} {rate_now:.0f} tokens/s", flush=True)
    return mean
