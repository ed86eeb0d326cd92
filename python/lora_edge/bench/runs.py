"""Timing several ways to run a model in turns, A B C A B C …, so that what slows the machine for a while slows all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from ..adapter import AdapterSpec
from ..model import Model

REST = 0.005  # s before each run, in which the threads of the run before stop spinning


@dataclass(frozen=True)
class Test:
    """pp: one prompt of `tokens` tokens at once; tg: `tokens` tokens one after another, from an empty context."""

    kind: str
    tokens: int

    @property
    def name(self) -> str:
        return f"{self.kind}{self.tokens}"


@dataclass(frozen=True)
class Arm:
    """A model, and the adapters that run with it."""

    model: Model
    adapter: AdapterSpec


@dataclass
class Timing:
    """Of one arm, per repeat; joules stay empty where there is no meter."""

    seconds: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)

    def speed(self, tokens: int) -> tuple[float, float]:
        """Tokens per second: mean and standard deviation over the repeats."""
        speeds = [tokens / s for s in self.seconds]
        return statistics.mean(speeds), statistics.stdev(speeds) if len(speeds) > 1 else 0.0

    def tokens_per_joule(self, tokens: int) -> float | None:
        total = sum(self.joules)
        return tokens * len(self.joules) / total if total > 0 else None


def in_turns(
    test: Test,
    arms: Mapping[str, Arm],
    repeats: int,
    *,
    joules: Callable[[], float] | None = None,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Times each arm `repeats` times, after one run of each that warms up. joules: a meter that counts up. tick: called
    after each run."""
    timings = {name: Timing() for name in arms}
    for repeat in range(-1, repeats):
        for name, arm in arms.items():
            time.sleep(REST)
            before = joules() if joules else 0.0
            seconds = run(test, arm)
            if repeat >= 0:
                timings[name].seconds.append(seconds)
                if joules:
                    timings[name].joules.append(joules() - before)
            tick()
    return timings


def run(test: Test, arm: Arm) -> float:
    """Seconds that the test takes; the logits after each fed piece are made, nothing is sampled."""
    draw = Random(test.tokens)
    ids = [draw.randrange(arm.model.config.n_vocab) for _ in range(test.tokens)]
    sequence = arm.model.sequence(adapter=arm.adapter)
    begin = time.perf_counter()
    if test.kind == "pp":
        sequence.feed(ids)
    else:
        for token in ids:
            sequence.feed([token])
    return time.perf_counter() - begin


def tax(slower: Timing, base: Timing) -> float:
    """How much longer than the base, in %: the median of what each repeat says."""
    return 100 * (statistics.median(a / b for a, b in zip(slower.seconds, base.seconds)) - 1)
