"""Time to load a model and make its first token, and the memory that a process then needs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engines import Edge, Engine
from models import RANK, Files, adapter_of, with_vocabulary
from paired import Arm, in_turns
from report import Report

LARGE_VOCABULARY = 151_936  # Qwen2.5's
MOST_MEMORY, MOST_SECONDS = 160e6, 0.5  # of a process with that vocabulary
MOST_ROUNDS = 5
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self")


@pytest.mark.parametrize("first_token", [False, True])
def test_load(
    first_token: bool,
    benchmark: Any,
    files: Files,
    kinds: dict[str, type[Engine]],
    threads: int,
    rounds: int,
    report: Report,
) -> None:
    """The file is in the page cache. Vocabulary and context are part of loading; weights are mapped, so that a share
    of it happens with the first token."""

    def arm(kind: type[Engine]) -> Arm:
        opened: list[Engine] = []

        def prepare() -> None:
            while opened:
                opened.pop().close()

        def run() -> None:
            opened.append(kind(files.base, threads=threads))
            if first_token:
                opened[-1].feed([42])

        return Arm(prepare, run)

    what = "load + first token" if first_token else "load"
    benchmark.group = f"{files.model} {what}"
    report.time(files.model, what, in_turns(benchmark, {name: arm(kind) for name, kind in kinds.items()}, rounds))


@needs_proc
def test_memory(files: Files, kinds: dict[str, type[Engine]], threads: int, report: Report) -> None:
    """Of a process that loads the base and an adapter, reads 64 tokens and writes 24. Python and the engine's library
    are counted before, and shown apart."""
    measured = {name: probe(name, files.base, files.adapter, threads) for name in kinds}
    size = files.base.stat().st_size / 1e6
    for key, note in [
        ("peak", f"whole process; the file is {size:.0f} MB"),
        ("anonymous", f"own memory beyond the imports; r{RANK} adapter {files.adapter.stat().st_size / 1e6:.0f} MB"),
        ("imports", "before loading"),
    ]:
        n_bytes = {name: values[key] for name, values in measured.items()}
        report.size(files.model, f"memory: {key}", n_bytes, note=note)
    core = probe("core", files.base, Path("-"), threads)
    own = {Edge.name: core["anonymous"] - core["kv"]}
    note = f"own pages without tokenizer and adapter; {core['kv'] / 1e6:.1f} MB of keys and values not counted"
    report.size(files.model, "memory: core", own, note=note)


@needs_proc
def test_large_vocabulary(
    files: Files, kinds: dict[str, type[Engine]], threads: int, rounds: int, report: Report
) -> None:
    """Processes that have opened nothing yet, the file in the page cache."""
    base, adapter = with_vocabulary(files.model, LARGE_VOCABULARY), adapter_of(files.model, RANK)
    base.read_bytes()
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    memory: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(min(rounds, MOST_ROUNDS)):
        for name in kinds:
            found = probe(name, base, adapter, threads)
            seconds[name].append(found["load"])
            memory[name].append(found["beside_file"])
    what = f"{LARGE_VOCABULARY:,} tokens"
    note = f"new process, file of {base.stat().st_size / 1e6:.0f} MB in the page cache"
    report.time(files.model, f"{what}: load", seconds, target=f"< {1e3 * MOST_SECONDS:.0f}", note=note)
    most = {name: max(values) for name, values in memory.items()}
    note = f"whole process with an r{RANK} adapter, without the base's pages: the most after loading or at the end"
    report.size(files.model, f"{what}: memory", most, target=f"<= {MOST_MEMORY / 1e6:.0f}", note=note)
    assert most[Edge.name] <= MOST_MEMORY
    assert statistics.median(seconds[Edge.name]) < MOST_SECONDS


def probe(name: str, base: Path, adapter: Path, threads: int) -> dict[str, float]:
    args = [sys.executable, *map(str, (Path(__file__).with_name("probe.py"), name, base, adapter, threads))]
    found: dict[str, float] = json.loads(subprocess.run(args, check=True, capture_output=True, text=True).stdout)
    return found
