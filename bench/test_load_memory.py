"""Time to load a model and make its first token, and the memory that a process then needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import RANK, Files
from engines import Engine
from paired import Arm, in_turns
from report import Report


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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory(files: Files, kinds: dict[str, type[Engine]], threads: int, report: Report) -> None:
    """Of a process that loads the base and an adapter, reads 64 tokens and writes 24. Python and the engine's library
    are counted before, and shown apart."""
    measured: dict[str, dict[str, float]] = {}
    probe = Path(__file__).with_name("probe.py")
    for name in kinds:
        args = [sys.executable, *map(str, (probe, name, files.base, files.adapter, threads))]
        measured[name] = json.loads(subprocess.run(args, check=True, capture_output=True, text=True).stdout)
    size = files.base.stat().st_size / 1e6
    for key, note in [
        ("peak", f"whole process; the file is {size:.0f} MB"),
        ("anonymous", f"own memory beyond the imports; r{RANK} adapter {files.adapter.stat().st_size / 1e6:.0f} MB"),
        ("imports", "before loading"),
    ]:
        report.size(files.model, f"memory: {key}", {name: values[key] for name, values in measured.items()}, note)
