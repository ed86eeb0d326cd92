"""Samples with their three answers, and the split into training and held-out by hash."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from .chatter import TALK, talk
from .commands import Command, to_english, to_german, to_json
from .phrases import dress
from .requests import Request, one_request, two_requests

VIEWS = ("base", "json", "german")


@dataclass(frozen=True)
class Sample:
    """What is said, and the answer of the base and of each adapter.

    `split` is train, template or combination (`split_of`).
    """

    text: str
    answers: dict[str, str]
    split: str


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def normal(text: str) -> str:
    """The text without what doesn't count for the split: case, punctuation, spaces."""
    return re.sub(r"[^a-z0-9%°]+", " ", text.lower()).strip()


def _combination(c: Command) -> bool:
    """Whether this device, action and room (or name) are never together in training."""
    return bool(c.room and c.room != "all") and _hash(f"combination {c.device} {c.action} {c.room}") % 20 == 0


def split_of(request: Request, kind: str) -> str:
    """`combination` (device x action x room unseen), `template` (template x slots unseen), or `train`.

    Small talk (`kind`) is a list of fixed phrases: there is nothing in it to combine, so all of it is for training.
    """
    if kind not in ("command", "other"):
        return "train"
    if any(_combination(c) for c in request.commands):
        return "combination"
    return "template" if _hash(request.key) % 16 == 0 else "train"


def draw(rng: random.Random) -> Sample:
    """One sample of either side of the split."""
    kind = "command"
    chance = rng.random()
    if chance < 0.09:
        request, kind = talk(rng)
    elif chance < 0.15:
        request = two_requests(rng)
    else:
        request = one_request(rng)
    if kind == "command":
        answers = dict(zip(VIEWS, (f(request.commands) for f in (to_english, to_json, to_german)), strict=True))
    else:
        answers = {"base": TALK[kind][0], "json": to_json(()), "german": TALK[kind][1]}
    return Sample(dress(request.text, rng), answers, split_of(request, kind))


def draw_from(wanted: Callable[[Sample], bool], rng: random.Random) -> Sample:
    """The next sample that is wanted."""
    while True:
        sample = draw(rng)
        if wanted(sample):
            return sample


def held_out(n: int, seed: int) -> list[Sample]:
    """`n` distinct held-out samples, half of each kind."""
    rng, found = random.Random(seed), dict[str, Sample]()
    for kind in ("template", "combination"):
        goal = len(found) + n // 2
        while len(found) < goal:
            sample = draw_from(lambda s, kind=kind: s.split == kind, rng)  # type: ignore[misc]
            found.setdefault(normal(sample.text), sample)
    return list(found.values())


def misspell(text: str, rng: random.Random) -> str:
    """The text with one letter lost, doubled or swapped: training only."""
    at = [i for i in range(1, len(text) - 2) if text[i].isalpha() and text[i + 1].isalpha()]
    if not at:
        return text
    i = rng.choice(at)
    return rng.choice(
        (
            text[:i] + text[i + 1 :],
            text[:i] + text[i] + text[i:],
            text[:i] + text[i + 1] + text[i] + text[i + 2 :],
        )
    )


def record(rng: random.Random) -> str:
    """A line or two of what a home did or said, in JSON or in German: answers without their requests."""
    view = rng.choice(("json", "german"))
    head = (
        rng.choice(("Log: ", "The home wrote: ", "Record\n"))
        if view == "json"
        else rng.choice(("In German: ", "The home said: ", "Auf Deutsch: "))
    )
    rows = [draw_from(lambda s: s.split == "train", rng).answers[view] for _ in range(rng.randint(1, 2))]
    return head + "\n".join(rows)
