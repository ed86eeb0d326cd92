"""Eight texts side by side, each with an adapter of its own. llama.cpp has one set of adapters per batch: texts with
different ones take turns there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from engines import Edge, Engine, Llama
from lora_edge.bench.work import adapter_bytes, work_of
from models import RANK, Files, adapter_of
from paired import Arm, in_turns
from report import Report

TEXTS, STEPS, TOKEN = 8, 32, 42
NAMES = [str(i) for i in range(TEXTS)]


@pytest.fixture(scope="module")
def ready(files: Files, kinds: dict[str, type[Engine]], threads: int) -> Iterator[dict[str, Engine]]:
    adapters = {name: adapter_of(files.model, RANK, i + 1) for i, name in enumerate(NAMES)}
    engines = {
        name: kind(files.base, adapters, threads=threads, n_ctx=2 * STEPS, n_texts=TEXTS)
        for name, kind in kinds.items()
    }
    yield engines
    for engine in engines.values():
        engine.close()


def batch(engine: Engine, adapters: Sequence[str | None]) -> Arm:
    def run() -> None:
        for _ in range(STEPS):
            engine.feed_batch([TOKEN] * len(adapters))

    return Arm(lambda: engine.start_batch(adapters), run)


def one_after_another(engine: Engine) -> Arm:
    def run() -> None:
        for name in NAMES:
            engine.start()
            engine.use(name)
            for _ in range(STEPS):
                engine.feed([TOKEN])

    return Arm(lambda: None, run)


def test_eight_adapters(benchmark: Any, files: Files, ready: dict[str, Engine], rounds: int, report: Report) -> None:
    ours = ready[Edge.name]
    assert isinstance(ours, Edge)
    none: list[str | None] = [None] * TEXTS
    arms = {"eight": batch(ours, NAMES), "without": batch(ours, none)}
    if Llama.name in ready:
        theirs = ready[Llama.name]
        arms |= {"in turns": one_after_another(theirs), "shared": batch(theirs, ["0"] * TEXTS)}
    benchmark.group = f"{files.model} eight adapters"
    seconds = in_turns(benchmark, arms, rounds)

    tokens, what = TEXTS * STEPS, f"{TEXTS} texts, r{RANK} each: tg{STEPS}"
    for arm, note in (
        ("in turns", "llama.cpp: one text after another, each with its adapter"),
        ("shared", "llama.cpp: a batch of eight with one adapter for all"),
    ):
        both = {Edge.name: seconds["eight"]} | ({Llama.name: seconds[arm]} if arm in seconds else {})
        report.rate(files.model, what, tokens, both, note=note)
    work = work_of(ours.model)
    base = work.weights + TEXTS * work.kv * STEPS / 2
    bound = f"{100 * base / (base + adapter_bytes(ours.model, NAMES)):.1f} by bytes"
    report.share(
        files.model,
        f"{what}: of the speed without",
        {Edge.name: seconds["without"]},
        {Edge.name: seconds["eight"]},
        bound=bound,
        note="base + KV over base + KV + adapters",
    )
