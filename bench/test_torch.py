"""Prefill beside torch's int8: the same linears, dynamically quantised. It runs them alone, without norms, attention
and the residual stream, which favours it."""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import pytest
from engines import Edge, Engine
from models import Files
from paired import Arm, in_turns, ratio
from report import Report
from texts import prefill

TOKENS = 512
REST = 0.3  # s until torch's threads have stopped spinning


def test_beside_torch(
    benchmark: Any, files: Files, engines: dict[str, Engine], threads: int, rounds: int, report: Report
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if files.model != "smollm2-135m":
        pytest.skip("the float32 weights of larger shapes need too much memory")
    ours = engines[Edge.name]
    assert isinstance(ours, Edge)
    torch.set_num_threads(threads)
    stack = quantised_linears(torch, ours)
    rows = torch.randn(TOKENS, ours.model.config.n_embd)

    def of_torch() -> None:
        with torch.inference_mode():
            stack(rows)

    alone = prefill(ours, None, TOKENS)
    arms = {
        Edge.name: Arm(lambda: (time.sleep(REST), alone.prepare()), alone.run),
        "torch": Arm(lambda: None, of_torch),
    }
    benchmark.group = f"{files.model} beside torch"
    seconds = in_turns(benchmark, arms, rounds)
    speed = TOKENS / statistics.median(seconds["torch"])
    over = ratio(seconds["torch"], seconds[Edge.name])
    note = f"{over} x torch's int8 dynamic, whose linears alone make {speed:.4g} tok/s"
    report.rate(files.model, f"pp{TOKENS} beside torch", TOKENS, {Edge.name: seconds[Edge.name]}, note=note)


def quantised_linears(torch: Any, engine: Edge) -> Any:
    """The seven linears of every layer one after the other, and the output for the last row."""
    nn, c = torch.nn, engine.model.config
    shapes = [shape for name, shape in engine.model.core.linear_shapes().items() if name.startswith("blk.0.")]

    class Linears(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                nn.ModuleList(nn.Linear(k, n, bias=False) for n, k in shapes) for _ in range(c.n_layer)
            )
            self.output = nn.Linear(c.n_embd, c.n_vocab, bias=False)

        def forward(self, x: Any) -> Any:
            for q, k, v, o, gate, up, down in self.layers:
                k(x)
                v(x)
                x = o(q(x))
                gate(x)
                x = down(up(x))
            return self.output(x[-1:])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to move to another package
        return torch.ao.quantization.quantize_dynamic(Linears().eval(), {nn.Linear}, dtype=torch.qint8)
