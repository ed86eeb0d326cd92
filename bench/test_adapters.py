"""What a new adapter costs until its first token, and what switching between two that are loaded costs."""

from __future__ import annotations

import statistics
import time
from itertools import count
from pathlib import Path
from typing import Any

from engines import Edge, Engine, Llama
from models import RANK, Files, fresh_copy
from paired import Arm, in_turns
from report import Report

SWITCHES = {Edge.name: 300, Llama.name: 60}  # whose switches take some 100 ms
TOKEN = 42


def test_load(benchmark: Any, files: Files, engines: dict[str, Engine], rounds: int, report: Report) -> None:
    """From a file that is new to the engine, but in the page cache, to the token after it, and that token alone."""
    numbers = count()

    def load(engine: Engine) -> Arm:
        def prepare() -> None:
            engine.start()
            engine.feed([TOKEN])
            if loaded:
                engine.unload_adapter("fresh")
                loaded.pop().unlink()
            loaded.append(fresh_copy(files.other, next(numbers)))

        def run() -> None:
            engine.load_adapter("fresh", loaded[0])
            engine.use("fresh")
            engine.feed([TOKEN])

        loaded: list[Path] = []
        return Arm(prepare, run)

    def steady(engine: Engine) -> Arm:
        return Arm(lambda: engine.feed([TOKEN]), lambda: engine.feed([TOKEN]))

    arms: dict[str, Arm] = {}
    for name, engine in engines.items():
        arms |= {f"{name} load": load(engine), f"{name} steady": steady(engine)}
    benchmark.group = f"{files.model} adapter load"
    seconds = in_turns(benchmark, arms, rounds)
    for engine in engines.values():
        engine.start()
        engine.unload_adapter("fresh")
    first = {name: seconds[f"{name} load"] for name in engines}
    over = {name: [a - b for a, b in zip(first[name], seconds[f"{name} steady"])] for name in engines}
    note = f"{files.other.stat().st_size / 1e6:.0f} MB, fresh, in the page cache"
    report.time(files.model, f"load r{RANK} adapter + first token", first, note=note)
    report.time(files.model, f"load r{RANK} adapter + first token - a steady token", over)


def test_switch(benchmark: Any, files: Files, engines: dict[str, Engine], report: Report) -> None:
    """Tokens that run with another adapter than the one before, each followed by one that stays with it; the text is
    the same. What a switch costs is the difference of their medians."""

    def run() -> None:
        for name, engine in engines.items():
            engine.start()
            for i in range(SWITCHES[name] + 2):
                times = {}
                for way in ("switching", "staying"):
                    begin = time.perf_counter()
                    engine.use(["one", "two"][i % 2])
                    engine.feed([TOKEN])
                    times[way] = time.perf_counter() - begin
                if i >= 2:
                    for way, seconds in times.items():
                        found[way].setdefault(name, []).append(seconds)

    found: dict[str, dict[str, list[float]]] = {"switching": {}, "staying": {}}
    benchmark.group = f"{files.model} adapter switch"
    benchmark.pedantic(run, rounds=1)
    each = {
        name: [a - b for a, b in zip(found["switching"][name], found["staying"][name])] for name in found["staying"]
    }
    report.time(files.model, "switch adapter + token", _medians(found["switching"]))
    note = ", ".join(f"{len(values)} of {name}" for name, values in each.items())
    report.time(files.model, "switch, over a steady token", _medians(each), unit="µs", note=f"median of {note}")


def _medians(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: [statistics.median(values)] for name, values in seconds.items()}
