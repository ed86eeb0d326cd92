"""Adapters of every kind, and encoders, on a GPU beside the same on the CPU."""

from __future__ import annotations

from pathlib import Path

import lora_edge
import numpy as np
import pytest
from lora_edge import _core
from lora_edge.adapter import AdapterSpec
from lora_edge.model import Model
from lora_edge.sequence import Sequence
from test_adapter_kinds import biases, dora, whole
from tiny_encoder import tiny_encoder
from tiny_models import (
    fresh_rng,
    random_factors,
    random_ids,
    random_shape,
    random_tensors,
    tiny_model,
    write_adapter,
    write_model,
)  # fmt: skip

WHOLE = ["token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.0.ffn_down.weight"]
SPECS: list[AdapterSpec] = [
    "dora", "bias", "whole", {"dora": -0.5}, {"bias": 1.0, "small": 1.5, "dora": 1.0}, {"dora": 0.0, "whole": 0.0},
    None,
]  # fmt: skip


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_adapters(tmp_path: Path, arch: str) -> None:
    rng = fresh_rng()
    base = tmp_path / "base.gguf"
    shape = tiny_model(base, rng, arch, "f32")
    biased = any(name.endswith("attn_q.bias") for name in _core.GgufFile(str(base)).tensors())
    paths = [
        dora(rng, tmp_path, shape, "dora"), dora(rng, tmp_path, shape, "small", r=2),
        biases(rng, tmp_path, shape, "bias"), whole(rng, tmp_path, shape, "whole", WHOLE, biased),
    ]  # fmt: skip
    texts = [random_ids(rng, shape, n) for n in (12, 1, 30, 5, 9, 2, 17)]
    with Model(base, threads=1) as cpu, Model(base, device="cuda") as gpu:
        for path in paths:
            cpu.load_adapter(path)
            gpu.load_adapter(path)
        together = [gpu.sequence(adapter=spec) for spec in SPECS]
        Sequence.feed_all(list(zip(together, texts)))
        for sequence, text, spec in zip(together, texts, SPECS):
            expected, alone = cpu.logits(text, adapter=spec), gpu.logits(text, adapter=spec)
            assert np.abs(expected - alone).max() <= 1e-3, spec
            assert sequence.logits().tobytes() == alone[-1].tobytes(), spec


@pytest.mark.parametrize(("type", "d"), [("f32", 96), ("f32", 90), ("q8_0", 96), ("q4_1", 96), ("q8_0", 5152)])
def test_ranks(tmp_path: Path, type: str, d: int) -> None:
    """Odd and even ranks, and more than a tile takes at once; depths beyond what a block of threads reads at once;
    texts in one tile with different adapters."""
    rng = fresh_rng()
    base = tmp_path / "base.gguf"
    shape = tiny_model(base, rng, "llama", type, whole_blocks=True, n_layer=1, n_ff=64, n_head=2, n_kv=1, d=d)
    ranks = [(3, "f32"), (8, "f16"), (40, "bf16")] + ([(16, "f32"), (72, "f16")] if d < 100 else [])
    specs: list[AdapterSpec] = [None, "r8", {"r3": 0.5, "r40": -0.5}, "r8", *(f"r{r}" for r, _ in ranks[2:]), "r3"]
    with Model(base, threads=1) as cpu, Model(base, device="cuda") as gpu:
        for r, kind in ranks:
            path = write_adapter(tmp_path / f"r{r}.gguf", "llama", random_factors(rng, shape, r=r), type=kind)
            cpu.load_adapter(path)
            gpu.load_adapter(path)
        texts = [random_ids(rng, shape, n) for n, _ in zip((7, 70, 3, 33, 1, 2, 9, 5), specs)]
        together = [gpu.sequence(adapter=spec) for spec in specs]
        Sequence.feed_all(list(zip(together, texts)))
        for sequence, text, spec in zip(together, texts, specs):
            alone = gpu.logits(text, adapter=spec)
            assert sequence.logits().tobytes() == alone[-1].tobytes(), spec
            if type == "f32":
                assert np.abs(cpu.logits(text, adapter=spec) - alone).max() <= 1e-3, spec


def test_an_adapter_that_starts_in_the_middle(tmp_path: Path) -> None:
    rng = fresh_rng()
    base = tmp_path / "base.gguf"
    shape = tiny_model(base, rng, "llama", "f32")
    path, ids = dora(rng, tmp_path, shape, "dora"), random_ids(rng, shape, 30)
    logits = []
    for device in ("cpu", "cuda"):
        with Model(base, threads=1, device=device) as model:
            model.load_adapter(path)
            sequence = model.sequence(adapter="dora")
            sequence.core.set_starts([11])
            sequence.feed(ids)
            logits.append(sequence.logits())
            assert np.abs(sequence.logits() - model.logits(ids, adapter="dora")[-1]).max() > 0.01
    assert np.abs(logits[0] - logits[1]).max() <= 1e-3


@pytest.mark.parametrize(("kv_type", "window"), [("f32", 0), ("f16", 0), ("f32", 17), ("f32", 90), ("f32", 600)])
def test_contexts_of_several_spans(tmp_path: Path, kv_type: str, window: int) -> None:
    rng = fresh_rng()
    base = tmp_path / "base.gguf"
    shape = tiny_model(base, rng, "llama", "f32", n_layer=1, n_ctx=1200, window=window)
    ids = random_ids(rng, shape, 1100)
    with Model(base, threads=1, kv_type=kv_type) as cpu, Model(base, kv_type=kv_type, device="cuda") as gpu:
        a, b = cpu.logits(ids, last=3), gpu.logits(ids, last=3)
        assert np.abs(a - b).max() <= (1e-3 if kv_type == "f32" else 2e-2)
        sequence = gpu.sequence()
        sequence.feed(ids[:-1])
        sequence.feed(ids[-1:])
        assert sequence.logits().tobytes() == b[-1].tobytes()


@pytest.mark.parametrize("kind", [0, 8])  # F32, Q8_0
def test_encoders(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "bert.gguf"
    path.write_bytes(tiny_encoder(kind).raw)
    texts = ["ab", "b a b", ("a", "b")]
    with lora_edge.load(path, device="cpu") as cpu, lora_edge.load(path, device="cuda") as gpu:
        assert gpu.device == "cuda:0"
        assert np.abs(cpu.embed(texts) - gpu.embed(texts)).max() <= 1e-4
        for a, b in zip(cpu.classify(texts), gpu.classify(texts)):
            assert a.label == b.label


def test_what_the_cpu_alone_does(tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    tiny_model(base, fresh_rng(), "llama", "q8_0", whole_blocks=True)
    with pytest.raises(ValueError, match="keeps no keys and values as q8_0; use kv_type='f16' or device='cpu'"):
        Model(base, kv_type="q8_0", device="cuda")
    with lora_edge.load(base, kv_type="q8_0") as model:
        assert model.device == "cpu"


def test_types_that_differ_between_tensors(tmp_path: Path) -> None:
    """As in Q4_K_M: also between those that share an input, and with an adapter on them."""
    rng = fresh_rng()
    sizes = {"d": 256, "n_head": 4, "n_kv": 2, "head_dim": 64, "n_ff": 512, "n_layer": 1, "n_vocab": 90}
    shape = random_shape(rng, "llama", tied=False, **sizes)
    types = {"attn_v": "q6_k", "ffn_down": "q6_k", "output": "q6_k", "attn_k": "q8_0", "ffn_up": "f16"}
    named = {f"{where}{stem}.weight": type for stem, type in types.items() for where in ("blk.0.", "")}
    base = write_model(tmp_path / "base.gguf", shape, random_tensors(rng, shape), "q4_k", types=named)
    adapter = write_adapter(tmp_path / "one.gguf", "llama", random_factors(rng, shape))
    ids = random_ids(rng, shape, 45)
    with Model(base, threads=1) as cpu, Model(base, device="cuda") as gpu:
        for model in (cpu, gpu):
            model.load_adapter(adapter)
        for spec in (None, "one"):
            expected, whole = cpu.logits(ids, adapter=spec), gpu.logits(ids, adapter=spec)
            assert np.abs(expected - whole).max(1).min() <= 1e-2 * np.abs(expected).max()
            sequence = gpu.sequence(adapter=spec)
            for n in (20, 1, 1, 23):
                sequence.feed(ids[len(sequence) : len(sequence) + n])
                assert sequence.logits().tobytes() == whole[len(sequence) - 1].tobytes()
