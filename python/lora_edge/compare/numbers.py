"""How far two models' logits are from each other, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
ORDER = ("f32", "f16", "bf16", "q8_0", "q4")  # the finer first; q4 stands for all that is coarser than q8_0


@dataclass(frozen=True)
class Distance:
    """Between logits x and those of the reference y, [positions, n_vocab].

    max_abs, mean_abs: of x - y. kl: mean over positions of KL(softmax(y) ‖ softmax(x)) in nats; kl_max: the largest.
    top1: the share of positions with the same likeliest token.
    """

    positions: int
    max_abs: float
    mean_abs: float
    kl: float
    kl_max: float
    top1: float


@dataclass(frozen=True)
class Limits:
    """What is allowed where the coarser of two files has weights of this type."""

    max_abs: float | None
    kl: float
    top1: float

    def __str__(self) -> str:
        first = f"max |Δlogit| ≤ {self.max_abs:g}" if self.max_abs is not None else f"KL ≤ {self.kl:g}"
        return first if self.max_abs is not None else f"{first}, top-1 ≥ {self.top1:.0%}"

    def passed(self, d: Distance) -> bool:
        if self.max_abs is not None:
            return d.max_abs <= self.max_abs
        return d.kl <= self.kl and d.top1 >= self.top1


LIMITS = {
    "f32": Limits(1e-3, 1e-6, 1.0),
    "f16": Limits(None, 1e-4, 0.97),
    "bf16": Limits(None, 2e-3, 0.95),
    "q8_0": Limits(None, 1e-2, 0.90),
    "q4": Limits(None, 2e-1, 0.70),
}
INPUT_LIMITS = {"f32": 1e-3, "f16": 1e-2, "bf16": 5e-2, "q8_0": 1e-1, "q4": 5e-1}  # relative, of a linear's input


def coarser(first: str, second: str) -> str:
    return max(first, second, key=ORDER.index)


def measure(pairs: list[tuple[Floats, Floats]]) -> Distance:
    """Over all windows of (x, y). ValueError: a logit is no number, or the vocabularies differ in size."""
    largest, total, kls, same, n = 0.0, 0.0, [], 0, 0
    for x, y in pairs:
        if x.shape != y.shape:
            raise ValueError(
                f"[verify] logits of shapes {x.shape} and {y.shape}: these are no models of one vocabulary"
            )
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("[verify] a logit is not a finite number")
        gap = np.abs(x - y)
        largest, total, n = max(largest, float(gap.max())), total + float(gap.sum(dtype=np.float64)), n + gap.size
        kls.append(kl(y, x))
        same += int((x.argmax(axis=1) == y.argmax(axis=1)).sum())
    each = np.concatenate(kls)
    return Distance(len(each), largest, total / n, float(each.mean()), float(each.max()), same / len(each))


def kl(p: Floats, q: Floats) -> NDArray[np.float64]:
    """KL(softmax(p) ‖ softmax(q)) in nats at each position of logits [n, n_vocab]."""
    lp, lq = _log_softmax(p), _log_softmax(q)
    return np.asarray((np.exp(lp) * (lp - lq)).sum(axis=-1))


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))
