"""Loading an adapter, and switching between two in the middle of a text."""

from __future__ import annotations

from typing import Any

from conftest import RANK, Files
from engines import Engine
from paired import Arm, in_turns
from report import Report

SWITCHES = 16
TOKEN = 42


def test_load(benchmark: Any, files: Files, engines: dict[str, Engine], rounds: int, report: Report) -> None:
    """From a file in the page cache to ready; unloading is not timed."""

    def arm(engine: Engine) -> Arm:
        def prepare() -> None:
            if loaded:
                engine.unload_adapter(loaded.pop())

        def run() -> None:
            engine.load_adapter("fresh", files.other)
            loaded.append("fresh")

        loaded: list[str] = []
        return Arm(prepare, run)

    benchmark.group = f"{files.model} adapter load"
    seconds = in_turns(benchmark, {name: arm(engine) for name, engine in engines.items()}, rounds)
    for engine in engines.values():
        engine.unload_adapter("fresh")
    report.time(files.model, f"load r{RANK} adapter", seconds)


def test_switch(benchmark: Any, files: Files, engines: dict[str, Engine], rounds: int, report: Report) -> None:
    """Tokens each of which runs with another adapter than the one before, beside tokens that don't switch."""

    def arm(engine: Engine, names: list[str]) -> Arm:
        def prepare() -> None:
            engine.start()
            engine.use(names[-1])
            engine.feed([TOKEN])

        def run() -> None:
            for i in range(SWITCHES):
                engine.use(names[i % len(names)])
                engine.feed([TOKEN])

        return Arm(prepare, run)

    arms: dict[str, Arm] = {}
    for name, engine in engines.items():
        arms[f"{name} switching"] = arm(engine, ["one", "two"])
        arms[f"{name} staying"] = arm(engine, ["one"])
    benchmark.group = f"{files.model} adapter switch"
    seconds = in_turns(benchmark, arms, rounds)

    def per_token(way: str) -> dict[str, list[float]]:
        return {name: [s / SWITCHES for s in seconds[f"{name} {way}"]] for name in engines}

    switching, staying = per_token("switching"), per_token("staying")
    report.time(files.model, "switch adapter + token", switching)
    report.time(files.model, "same adapter, token", staying)
    report.tax(files.model, "tax of a switch", switching, staying)
