"""Decoding and what memory gives: the share of the read bandwidth, measured in the same rounds, and what adapters of
several ranks cost beside the share of their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engines import Edge, Engine
from lora_edge.bench.work import adapter_bytes, work_of
from models import Files, adapter_of
from paired import in_turns
from peaks import read_bandwidth
from report import Report
from texts import decode

TOKENS = 64
RANKS = (8, 16, 64)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_bandwidth(
    n_threads: int, benchmark: Any, files: Files, kinds: dict[str, type[Engine]], rounds: int, report: Report
) -> None:
    engines = {name: kind(files.base, threads=n_threads) for name, kind in kinds.items()}
    peak = read_bandwidth(n_threads)
    arms = {name: decode(engine, None, TOKENS) for name, engine in engines.items()} | {"probe": peak.arm}
    benchmark.group = f"{files.model} decode, {n_threads} threads"
    seconds = in_turns(benchmark, arms, rounds)
    ours = engines[Edge.name]
    assert isinstance(ours, Edge)
    read = TOKENS * work_of(ours.model).weights
    what = f"tg{TOKENS}, {n_threads} thread{'s' * (n_threads > 1)}"
    report.rate(files.model, what, TOKENS, {name: seconds[name] for name in engines})
    used = {name: [read / s for s in seconds[name]] for name in engines}
    whole = {name: peak.values(rounds) for name in engines}
    middle = sorted(whole[Edge.name])[len(whole[Edge.name]) // 2] / 1e9
    note = f"bytes of the weights alone, of {middle:.1f} GB/s"
    report.share(files.model, f"{what}: of read bandwidth", used, whole, bound="100", note=note)
    for engine in engines.values():
        engine.close()


@pytest.fixture(scope="module")
def ranked(files: Files, kinds: dict[str, type[Engine]], threads: int) -> Iterator[dict[str, Engine]]:
    """Each engine with an adapter of every rank loaded, named after it."""
    adapters = {f"r{rank}": adapter_of(files.model, rank) for rank in RANKS}
    ready = {name: kind(files.base, adapters, threads=threads) for name, kind in kinds.items()}
    yield ready
    for engine in ready.values():
        engine.close()


def test_tax_by_rank(
    benchmark: Any, files: Files, ranked: dict[str, Engine], threads: int, rounds: int, report: Report
) -> None:
    bare = Edge(files.base, threads=threads)
    arms = {"bare": decode(bare, None, TOKENS)}
    for name, engine in ranked.items():
        arms |= {f"{name} {a}": decode(engine, a, TOKENS) for a in (None, *(f"r{rank}" for rank in RANKS))}
    benchmark.group = f"{files.model} tax by rank"
    seconds = in_turns(benchmark, arms, rounds)
    ours = ranked[Edge.name]
    assert isinstance(ours, Edge)
    work = work_of(ours.model)
    off = {name: seconds[f"{name} None"] for name in ranked}
    for rank in RANKS:
        n_bytes = adapter_bytes(ours.model, [f"r{rank}"])
        on = {name: seconds[f"{name} r{rank}"] for name in ranked}
        bound = f"{100 * n_bytes / work.decode_bytes(TOKENS / 2):.1f} by bytes"
        report.rate(files.model, f"tg{TOKENS} r{rank}", TOKENS, on)
        report.tax(files.model, f"tg{TOKENS} tax r{rank}", on, off, bound=bound)
    report.tax(
        files.model,
        f"tg{TOKENS} adapters loaded, off",
        {Edge.name: off[Edge.name]},
        {Edge.name: seconds["bare"]},
        target="-1 to +1",
        note="beside a model without adapters",
    )
    bare.close()
