"""Training speed beside transformers + PEFT: rank 16 on all linears, batches of 4 × 128 tokens, in turns.

Each program is a process of its own. PEFT runs with both ways in which OpenMP's threads wait; its faster one counts.
bf16 is probed with one short text, and takes part only where it is more than half as fast as f32 with it.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from engines import Edge
from models import RANK, SMALL, Files
from paired import Arm, in_turns, ratio
from report import Report

BATCH, TOKENS = 4, 128
PROBE = 32  # tokens
REST = 0.3  # s until torch's threads have stopped spinning
WAITS = {"": "OpenMP's default", "PASSIVE": "OMP_WAIT_POLICY=PASSIVE"}


@contextmanager
def worker(kind: str, base: Path, batch: int, tokens: int, threads: int, wait: str) -> Iterator[Arm]:
    """A process that makes a step a turn."""
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | ({"OMP_WAIT_POLICY": wait} if wait else {})
    command = [sys.executable, Path(__file__).with_name("training_worker.py"), kind, base, batch, tokens, threads]
    with subprocess.Popen(
        [str(word) for word in command], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        lines, answers = process.stdin, process.stdout

        def hear(word: str) -> None:
            if answers.readline().strip() != word:
                raise RuntimeError(f"training with {kind} ended early")

        def step() -> None:
            lines.write("\n")
            lines.flush()
            hear("done")

        try:
            hear("ready")
            yield Arm(lambda: time.sleep(REST), step)
        finally:
            lines.close()


def probe(kind: str, base: Path, threads: int) -> float:
    """Tokens/s of one short text, after one that doesn't count."""
    with worker(kind, base, 1, PROBE, threads, "PASSIVE") as arm:
        arm.run()
        begin = time.perf_counter()
        arm.run()
        return PROBE / (time.perf_counter() - begin)


def test_training(benchmark: Any, files: Files, threads: int, rounds: int, report: Report) -> None:
    for package in ("torch", "transformers", "peft"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if files.model not in SMALL:
        pytest.skip("the float32 weights of larger shapes need too much memory")
    short = {kind: probe(kind, files.base, threads) for kind in ("f32", "bf16")}
    kinds = ["f32", "bf16"] if short["bf16"] > 0.5 * short["f32"] else ["f32"]
    with ExitStack() as stack:
        arms = {Edge.name: stack.enter_context(worker(Edge.name, files.base, BATCH, TOKENS, threads, "PASSIVE"))}
        for kind in kinds:
            for wait, name in WAITS.items():
                arm = worker(kind, files.base, BATCH, TOKENS, threads, wait)
                arms[f"PEFT {kind}, {name}"] = stack.enter_context(arm)
        benchmark.group = f"{files.model} training"
        seconds = in_turns(benchmark, arms, rounds)
    best = min((name for name in arms if name != Edge.name), key=lambda name: statistics.median(seconds[name]))
    over = ratio(seconds[best], seconds[Edge.name])
    speeds = ", ".join(
        f"{name} {BATCH * TOKENS / statistics.median(seconds[name]):.4g} tok/s" for name in arms if name != Edge.name
    )
    note = f"{over} x {best}; {speeds}; {PROBE} tokens in f32 {short['f32']:.3g}, in bf16 {short['bf16']:.3g} tok/s"
    report.rate(
        files.model, f"training, r{RANK}, {BATCH} x {TOKENS}", BATCH * TOKENS, {Edge.name: seconds[Edge.name]},
        target="1.2 x PEFT", note=note,
    )  # fmt: skip
