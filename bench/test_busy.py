"""Decoding while every core has another process that never rests: the share of its own undisturbed speed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from engines import Engine
from models import Files
from paired import Arm, in_turns
from report import Report
from texts import decode

TOKENS = 32
SETTLE = 0.1  # s until the system has spread the processes


class Load:
    """One process per core that counts; it stands still between `on` and `off`."""

    def __init__(self) -> None:
        code = "while True: pass"
        self.processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(os.cpu_count() or 1)]
        self.off()

    def on(self) -> None:
        self._signal(signal.SIGCONT)

    def off(self) -> None:
        self._signal(signal.SIGSTOP)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes:
            process.send_signal(number)
        time.sleep(SETTLE)


@pytest.fixture
def load() -> Iterator[Load]:
    load = Load()
    yield load
    load.close()


def test_busy_cores(
    load: Load, benchmark: Any, files: Files, engines: dict[str, Engine], rounds: int, report: Report
) -> None:
    def arm(engine: Engine, busy: bool) -> Arm:
        alone = decode(engine, None, TOKENS)
        return Arm(lambda: (load.off(), alone.prepare(), load.on() if busy else None), alone.run)

    arms: dict[str, Arm] = {}
    for name, engine in engines.items():
        arms |= {f"{name} alone": arm(engine, False), f"{name} busy": arm(engine, True)}
    benchmark.group = f"{files.model} busy cores"
    seconds = in_turns(benchmark, arms, rounds)
    load.off()
    alone, busy = ({name: seconds[f"{name} {way}"] for name in engines} for way in ("alone", "busy"))
    cores = os.cpu_count()
    report.rate(files.model, f"tg{TOKENS}, {cores} busy processes", TOKENS, busy)
    report.share(
        files.model,
        f"tg{TOKENS}, {cores} busy processes: of undisturbed speed",
        alone,
        busy,
        bound="50 by fair shares",
        note="one that never rests per core",
    )
