"""Prefill beside torch's int8: transformers' model of the same shape with its linears dynamically quantised; and these
linears alone, without norms, attention and the residual stream."""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import pytest
from engines import Edge, Engine
from models import SMALL, Files
from paired import Arm, in_turns, ratio
from report import Report
from texts import prefill

TOKENS = 512
REST = 0.3  # s until torch's threads have stopped spinning


def test_beside_torch(
    benchmark: Any, files: Files, engines: dict[str, Engine], threads: int, rounds: int, report: Report
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    if files.model not in SMALL:
        pytest.skip("the float32 weights of larger shapes need too much memory")
    ours = engines[Edge.name]
    assert isinstance(ours, Edge)
    torch.set_num_threads(threads)
    whole, linears = quantised(torch, model_of(ours)), quantised(torch, linears_of(torch, ours))
    ids = torch.randint(ours.model.config.n_vocab, (1, TOKENS))
    rows = torch.randn(TOKENS, ours.model.config.n_embd)

    def of_torch() -> None:
        with torch.inference_mode():
            whole(ids, use_cache=True, logits_to_keep=1)

    def of_linears() -> None:
        with torch.inference_mode():
            linears(rows)

    alone = prefill(ours, None, TOKENS)
    arms = {
        Edge.name: Arm(lambda: (time.sleep(REST), alone.prepare()), alone.run),
        "torch": Arm(lambda: None, of_torch),
        "linears": Arm(lambda: None, of_linears),
    }
    benchmark.group = f"{files.model} beside torch"
    seconds = in_turns(benchmark, arms, rounds)
    over, alone_over = (ratio(seconds[name], seconds[Edge.name]) for name in ("torch", "linears"))
    speed = TOKENS / statistics.median(seconds["torch"])
    note = f"{over} x transformers with torch's int8 dynamic ({speed:.4g} tok/s), {alone_over} x its linears alone"
    report.rate(files.model, f"pp{TOKENS} beside torch", TOKENS, {Edge.name: seconds[Edge.name]}, note=note)


def model_of(engine: Edge) -> Any:
    """transformers' model of the shape, with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    c = engine.model.config
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(
        c.arch, vocab_size=c.n_vocab, hidden_size=c.n_embd, num_hidden_layers=c.n_layer, num_attention_heads=c.n_head,
        num_key_value_heads=c.n_head_kv, intermediate_size=c.n_ff, tie_word_embeddings=False,
    ))  # fmt: skip


def linears_of(torch: Any, engine: Edge) -> Any:
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

    return Linears()


def quantised(torch: Any, module: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to move to another package
        return torch.ao.quantization.quantize_dynamic(module.float().eval(), {torch.nn.Linear}, dtype=torch.qint8)
