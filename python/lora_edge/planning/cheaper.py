"""Cheaper settings of a run that doesn't fit: each alone, and, where none suffices, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec

from ..train.settings import EIGHT_BITS, OPTIMIZERS, Settings

SHORTEST = 64  # tokens of an example


@dataclass(frozen=True)
class Change:
    """words: flags of the command line; peak: bytes that the run then needs."""

    words: str
    peak: int
    fits: bool


def cheaper(
    settings: Settings,
    peak: Callable[[Settings], int],
    room: int,
    length: int | None = None,
    narrow: tuple[str, ...] = (),
) -> Iterator[Change]:
    """Of each kind of change the mildest that suffices. Kinds are those of `_kinds`; where no one does, they are
    added up in that order, as far as is needed. length: tokens of the longest row, where it is known. narrow: modules
    to adapt where there is no room for all."""
    alone = [_mildest(list(steps), peak, room) for steps in _kinds(settings, length, narrow)]
    found = [change for change in alone if change and change[1].fits]
    if found:
        yield from (change for _, change in found)
        return
    # What changes no result comes first; the smallest of each kind is kept before the next one is tried.
    now = settings
    words: list[str] = []
    last: Change | None = None
    for number in range(len(list(_kinds(now, length, narrow)))):
        steps = list(list(_kinds(now, length, narrow))[number])
        if not steps:
            continue
        made = _mildest([(replaced, flag) for replaced, flag in steps], peak, room)
        if made is None or (last is not None and made[1].peak >= last.peak):
            continue
        now, words = made[0], [*words, made[1].words]
        last = Change(" ".join(words), made[1].peak, made[1].fits)
        if last.fits:
            break
    if last is not None:
        yield last


def _mildest(
    steps: list[tuple[Settings, str]], peak: Callable[[Settings], int], room: int
) -> tuple[Settings, Change] | None:
    """The first of the steps that fits, else the last one."""
    made = None
    for settings, words in steps:
        needed = peak(settings)
        made = settings, Change(words, needed, needed <= room)
        if needed <= room:
            break
    return made


def _kinds(s: Settings, length: int | None, narrow: tuple[str, ...]) -> Iterator[Iterator[tuple[Settings, str]]]:
    """Settings with their flags, from mild to strong. The first two kinds change no result."""
    yield iter([] if s.checkpointing else [(replace(s, checkpointing=True), "--checkpointing")])
    yield (
        (replace(s, accumulate=n), f"--accumulate {n}")
        for n in range(s.accumulate + 1, s.batch_size + 1)
        if s.batch_size % n == 0
    )
    if s.method in ("lora", "rslora", "lora+", "dora", "adalora"):
        yield ((replace(s, rank=r), f"--rank {r}") for r in _halves(s.rank, 1))
        wide = narrow and s.targets != narrow
        yield iter([(replace(s, targets=narrow), f"--targets {','.join(narrow)}")] if wide else [])
    else:
        yield iter([(replace(s, method="lora"), "--method lora")])
    yield ((replace(s, optimizer=word), f"--optimizer {word}") for word in _smaller_states(s.optimizer))
    longest = s.max_length if length is None else min(length, s.max_length)
    yield ((replace(s, max_length=n), f"--max-length {n}") for n in _halves(longest, SHORTEST))


def _smaller_states(optimizer: str) -> tuple[str, ...]:
    """Optimisers with smaller states, of those that run here; the largest first."""
    known = OPTIMIZERS if find_spec("bitsandbytes") else tuple(word for word in OPTIMIZERS if word != EIGHT_BITS)
    return known[known.index(optimizer) + 1 :] if optimizer in known else ("sgd",)


def _halves(n: int, least: int) -> Iterator[int]:
    while n // 2 >= least:
        n //= 2
        yield n
