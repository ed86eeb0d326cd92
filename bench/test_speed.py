"""Prefill and decoding: the base alone, the adapter merged into it, and the adapter beside it.

Work as in llama-bench: pp N is one prompt of N tokens, tg N is N tokens one after another; no sampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engines import Edge, Engine, Llama
from models import RANK, Files
from paired import Arm, in_turns, ratio
from report import Report
from texts import decode, prefill, tokens

# Least speed of the base alone relative to llama.cpp's, on x86 with 2 threads.
FLOORS = {("smollm2-135m", "tg64"): 0.8, ("smollm2-135m", "pp512"): 0.5}


@pytest.fixture(scope="module")
def merged(files: Files, kinds: dict[str, type[Engine]], threads: int) -> Iterator[dict[str, Engine]]:
    ready = {name: kind(files.merged, threads=threads) for name, kind in kinds.items()}
    yield ready
    for engine in ready.values():
        engine.close()


@pytest.mark.parametrize("what", ["pp64", "pp512", "tg64"])
def test_speed(
    what: str,
    benchmark: Any,
    files: Files,
    engines: dict[str, Engine],
    merged: dict[str, Engine],
    rounds: int,
    report: Report,
) -> None:
    make, n = (prefill, int(what[2:])) if what.startswith("pp") else (decode, int(what[2:]))
    arms: dict[str, Arm] = {}
    for name in engines:
        arms[f"{name} base"] = make(engines[name], None, n)
        arms[f"{name} merged"] = make(merged[name], None, n)
        arms[f"{name} unmerged"] = make(engines[name], "one", n)
    benchmark.group = f"{files.model} {what}"
    seconds = in_turns(benchmark, arms, rounds)

    def of(way: str) -> dict[str, list[float]]:
        return {name: seconds[f"{name} {way}"] for name in engines}

    base, unmerged = of("base"), of("unmerged")
    floor = FLOORS.get((files.model, what))
    report.rate(files.model, what, n, base, target=f">= {floor}" if floor else "")
    report.rate(files.model, f"{what} merged", n, of("merged"))
    report.rate(files.model, f"{what} r{RANK} unmerged", n, unmerged)
    report.tax(files.model, f"{what} tax merged", of("merged"), base)
    report.tax(files.model, f"{what} tax r{RANK}", unmerged, base)
    if floor and Llama.name in engines:
        speed = ratio(base[Llama.name], base[Edge.name])
        assert speed.median >= floor, f"{what} is {speed} of llama.cpp's; {floor} is the least"


def test_generate(benchmark: Any, files: Files, engines: dict[str, Engine], rounds: int, report: Report) -> None:
    """The public API's whole loop (sampling, log-probabilities, text) beside bare forward passes."""
    engine = engines[Edge.name]
    assert isinstance(engine, Edge)
    model, ids = engine.model, tokens(1)
    bare = decode(engine, None, 64)
    arms = {
        "generate": Arm(lambda: None, lambda: model.generate(ids, max_tokens=64, ignore_eos=True)),
        "feed": bare,
    }
    benchmark.group = f"{files.model} generate"
    seconds = in_turns(benchmark, arms, rounds)
    over = ratio(seconds["generate"], seconds["feed"])
    report.rate(files.model, "generate 64", 64, {Edge.name: seconds["generate"]}, note=f"{over} x the time of tg64")
