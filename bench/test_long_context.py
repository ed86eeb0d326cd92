"""8,192 tokens of context: reading them, and decoding at their end. Few rounds, as a round takes a minute or more."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from engines import Edge, Engine
from lora_edge.bench.work import work_of
from models import SMALL, Files
from paired import Arm, in_turns
from peaks import int8_peak, read_bandwidth
from report import Report
from texts import tokens

CONTEXT, STEPS, TOKEN = 8192, 16, 42
SLOWER = 4  # of the rounds of other suites, one in so many


def test_8192_tokens(
    benchmark: Any, files: Files, kinds: dict[str, type[Engine]], threads: int, rounds: int, report: Report
) -> None:
    if files.model not in SMALL:
        pytest.skip("takes minutes with larger shapes")
    engines = {name: kind(files.base, threads=threads, n_ctx=CONTEXT) for name, kind in kinds.items()}
    ids, rounds = tokens(CONTEXT), max(1, rounds // SLOWER)
    bandwidth, products = read_bandwidth(threads), int8_peak(threads)

    def read(engine: Engine) -> Arm:
        return Arm(engine.start, lambda: engine.feed(ids))

    def write(engine: Engine) -> Arm:
        """After `read` in the same round: the last tokens once more, one by one."""

        def run() -> None:
            for _ in range(STEPS):
                engine.feed([TOKEN])

        return Arm(lambda: engine.truncate(CONTEXT - STEPS), run)

    arms = {"bandwidth": bandwidth.arm, "products": products.arm}
    for name, engine in engines.items():
        arms |= {f"{name} read": read(engine), f"{name} write": write(engine)}
    benchmark.group = f"{files.model} context of {CONTEXT}"
    seconds = in_turns(benchmark, arms, rounds, warm_up=0)

    ours = engines[Edge.name]
    assert isinstance(ours, Edge)
    work = work_of(ours.model)
    per_second = statistics.median(bandwidth.values(rounds)) / work.decode_bytes(CONTEXT - STEPS / 2)
    report.rate(
        files.model,
        f"tg{STEPS} at {CONTEXT} tokens",
        STEPS,
        {name: seconds[f"{name} write"] for name in engines},
        bound=f"{per_second:.0f} by bytes",
        note=f"weights + KV over read bandwidth, {threads} threads",
    )
    at_peak = statistics.median(products.values(rounds)) * CONTEXT / work.prefill_multiply_adds(CONTEXT)
    report.rate(
        files.model,
        f"pp{CONTEXT}",
        CONTEXT,
        {name: seconds[f"{name} read"] for name in engines},
        bound=f"{at_peak:.0f} by products",
        note="the linears at the int8 peak; attention comes on top",
    )
    for engine in engines.values():
        engine.close()
