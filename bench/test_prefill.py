"""Prefill and what the arithmetic gives: the share of the byte dot products' peak that the whole pass has, and that the
product alone has."""

from __future__ import annotations

from typing import Any

from engines import Edge, Engine
from lora_edge import _core
from lora_edge.bench.work import work_of
from models import Files
from paired import Arm, in_turns
from peaks import SECONDS, int8_peak
from report import Report
from texts import prefill

TOKENS = 512
CHUNK = 256  # rows that a pass of lora_edge takes through the layers at a time


def layer_shapes(engine: Edge) -> list[tuple[int, int]]:
    """(n, k) of the linears of the first layer."""
    shapes = engine.model.core.linear_shapes()
    return [shape for name, shape in shapes.items() if name.startswith("blk.0.")]


def product_speed(shapes: list[tuple[int, int]]) -> float:
    """Multiply-adds/s of the Q8_0 products of a layer, one thread, CHUNK rows of activations already quantised."""
    sizes = {(n, k): n * k * shapes.count((n, k)) for n, k in shapes}
    seconds = [size / _core.probe_matmul_q8(CHUNK, n, k, 1, SECONDS / len(sizes)) for (n, k), size in sizes.items()]
    return sum(sizes.values()) / sum(seconds)


def test_share_of_the_peak(
    benchmark: Any, files: Files, kinds: dict[str, type[Engine]], rounds: int, report: Report
) -> None:
    """One thread."""
    engines = {name: kind(files.base, {"one": files.adapter}, threads=1) for name, kind in kinds.items()}
    ours = engines[Edge.name]
    assert isinstance(ours, Edge)
    shapes, work = layer_shapes(ours), work_of(ours.model)
    peak, products = int8_peak(1), []
    arms: dict[str, Arm] = {}
    for name, engine in engines.items():
        arms[f"{name} base"] = prefill(engine, None, TOKENS)
        arms[f"{name} r16"] = prefill(engine, "one", TOKENS)
    arms["peak"] = peak.arm
    arms["product"] = Arm(lambda: None, lambda: products.append(product_speed(shapes)))
    benchmark.group = f"{files.model} prefill, 1 thread"
    seconds = in_turns(benchmark, arms, rounds)

    base, adapted = ({name: seconds[f"{name} {way}"] for name in engines} for way in ("base", "r16"))
    what = f"pp{TOKENS}, 1 thread"
    report.rate(files.model, what, TOKENS, base)
    report.rate(files.model, f"{what}, r16 unmerged", TOKENS, adapted)
    report.tax(files.model, f"{what}: tax r16", adapted, base)
    whole = {name: peak.values(rounds) for name in engines}
    done = {name: [work.prefill_multiply_adds(TOKENS) / s for s in base[name]] for name in engines}
    middle = 2 * sorted(whole[Edge.name])[len(whole[Edge.name]) // 2] / 1e9
    note = f"of {middle:.0f} GOPS, {_core.build_info()['isa']} on registers"
    report.share(
        files.model, f"{what}: of int8 peak", done, whole, bound="100", note=f"the linears' operations; {note}"
    )
    report.share(
        files.model,
        "Q8_0 product alone, 1 thread",
        {Edge.name: products[-rounds:]},
        whole,
        bound="100",
        note=f"m {CHUNK}, a layer's shapes, packing included; {note}",
    )
    for engine in engines.values():
        engine.close()
