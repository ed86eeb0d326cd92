"""Timing several arms in turns, A B C A B C …, so that a machine shared with other work slows them alike.

Ratios are taken within a round and summarised by their median and quartiles; absolute figures are medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

REST = 0.005  # s before each turn: the other engine's threads stop spinning


class Arm(NamedTuple):
    """`run` is timed; `prepare` before it is not."""

    prepare: Callable[[], object]
    run: Callable[[], object]


class Ratio(NamedTuple):
    """Median and quartiles of ratios taken within rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def in_turns(benchmark: Any, arms: Mapping[str, Arm], rounds: int, *, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each arm, one per round, after `warm_up` rounds that don't count.

    The first arm is the one that pytest-benchmark reports; the others take their turns in its setup.
    """
    first, *others = arms
    seconds: dict[str, list[float]] = {name: [] for name in arms}

    def timed(name: str) -> None:
        begin = time.perf_counter()
        arms[name].run()
        seconds[name].append(time.perf_counter() - begin)

    def turn_of_others() -> None:
        for name in others:
            arms[name].prepare()
            time.sleep(REST)
            timed(name)
        arms[first].prepare()
        time.sleep(REST)

    benchmark.pedantic(timed, args=(first,), setup=turn_of_others, rounds=rounds, warmup_rounds=warm_up)
    for name, values in seconds.items():
        seconds[name] = values[-rounds:]
        benchmark.extra_info[name] = seconds[name]
    return seconds


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """over / under, round by round."""
    each = sorted(a / b for a, b in zip(over, under))
    low, _, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return Ratio(statistics.median(each), low, high)
