"""What files of the decoder architectures must hold, and what is said where they don't."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lora_edge.model import Model
from tiny_gguf import OWN_KEYS, tiny_model
from tiny_models import fresh_rng, random_shape, random_tensors, write_model


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", *OWN_KEYS, "gpt2"])
def test_tiny_files_load(tmp_path: Path, arch: str) -> None:
    (tmp_path / "m.gguf").write_bytes(tiny_model(arch).raw)
    with Model(tmp_path / "m.gguf", threads=1) as model:
        assert np.isfinite(model.logits(list(range(40)))).all()


@pytest.mark.parametrize(
    ("arch", "key", "value", "message"),
    [
        ("gemma3", "attention.sliding_window_pattern", np.array([True, False]), "list of 1 booleans, one per layer"),
        ("gemma3", "attention.sliding_window_pattern", np.array([1.0]), "list of 1 booleans, one per layer"),
        ("gemma3", "attention.sliding_window_pattern", 1 << 20, "not an integer from 0 to 65536"),
        ("gemma3", "attention.sliding_window_pattern", "all", "must be a number"),
        ("gemma3", "attention.sliding_window", np.int64(-1), "is -1, not an integer from 0"),
        ("gemma3", "attention.sliding_window", 0.5, "is 0.5, not an integer"),
        ("gemma3", "final_logit_softcapping", -1.0, "is -1, not a positive number"),
        ("gemma3", "attn_logit_softcapping", np.float32("nan"), "is nan, not a positive number"),
        ("gemma3", "rope.freq_base_swa", 0.0, "is 0, not a positive number"),
        ("phi3", "rope.scaling.original_context_length", 0, "is 0, not an integer from 1"),
        ("phi3", "rope.scaling.attn_factor", np.float32("inf"), "is inf, not a positive number"),
        ("phi3", "rope.dimension_count", 6, "not an integer from 2 to 4"),
        ("stablelm", "rope.dimension_count", 3, "is 3, an odd number"),
        ("stablelm", "use_parallel_residual", 1, "must be true or false"),
        ("stablelm", "attention.layer_norm_epsilon", None, "is missing"),
        ("gpt2", "context_length", 65, "'position_embd.weight' has shape [64, 8]; the model needs [65, 8]"),
        ("gpt2", "attention.head_count_kv", None, "'blk.0.attn_qkv.weight' has shape [16, 8]; the model needs [24, 8]"),
        ("llama", "attention.scale", np.float64(1e300), "is 1e+300, not a positive number"),
        ("llama", "rope.scaling.type", "yarn", "RoPE scaling 'yarn' is not supported"),
    ],
)
def test_metadata_that_lies(tmp_path: Path, arch: str, key: str, value: Any, message: str) -> None:
    (tmp_path / "m.gguf").write_bytes(tiny_model(arch, metadata={f"{arch}.{key}": value}).raw)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Model(tmp_path / "m.gguf", threads=1)
    text = str(error.value)
    assert text.startswith("[model] ") and any(name in text for name in (f"{arch}.{key}", "tensor '", "RoPE", key))


@pytest.mark.parametrize(
    ("arch", "missing"),
    [
        ("gemma2", "blk.0.post_attention_norm.weight"), ("gemma2", "blk.0.post_ffw_norm.weight"),
        ("gemma3", "blk.0.attn_q_norm.weight"), ("phi3", "blk.0.attn_qkv.weight"), ("gpt2", "position_embd.weight"),
        ("gpt2", "blk.0.attn_norm.bias"), ("stablelm", "output_norm.bias"), ("stablelm", "blk.0.ffn_norm.weight"),
        ("olmo2", "blk.0.attn_k_norm.weight"),
        ("smollm3", "blk.0.ffn_norm.weight"),
    ],
)  # fmt: skip
def test_missing_tensors(tmp_path: Path, arch: str, missing: str) -> None:
    rng = fresh_rng()
    fields: dict[str, Any] = {"extra": {"use_parallel_residual": False}} if arch == "stablelm" else {}
    shape = random_shape(rng, arch, **fields)
    tensors = random_tensors(rng, shape)
    del tensors[missing]
    with pytest.raises(ValueError, match=re.escape(f"[model] tensor '{missing}' is missing")):
        Model(write_model(tmp_path / "m.gguf", shape, tensors))


@pytest.mark.parametrize(
    ("arch", "extra"),
    [
        ("olmo2", "blk.0.attn_norm.weight"),
        ("phi3", "blk.0.ffn_gate.weight"),
        ("gpt2", "rope_freqs.weight"),
        ("granite", "blk.0.attn_norm.bias"),
        ("qwen2", "token_embd.bias"),
        ("gpt2", "position_embd.bias"),
    ],
)
def test_tensors_without_a_place(tmp_path: Path, arch: str, extra: str) -> None:
    rng = fresh_rng()
    shape = random_shape(rng, arch)
    tensors = {**random_tensors(rng, shape), extra: np.ones(4, np.float32)}
    with pytest.raises(ValueError, match=re.escape(f"tensor '{extra}' has no place in architecture '{arch}'")):
        Model(write_model(tmp_path / "m.gguf", shape, tensors))


def test_long_factors_come_in_pairs(tmp_path: Path) -> None:
    rng = fresh_rng()
    shape = random_shape(rng, "phi3", long_factors=True)
    tensors = random_tensors(rng, shape)
    del tensors["rope_factors_long.weight"]
    with pytest.raises(ValueError, match="one is missing"):
        Model(write_model(tmp_path / "m.gguf", shape, tensors))


def test_parallel_stablelm(tmp_path: Path) -> None:
    """A second norm decides, as in llama.cpp, whatever the metadata says."""
    logits = []
    for parallel in (True, False, None):
        raw = tiny_model("stablelm", metadata={"stablelm.use_parallel_residual": parallel}).raw
        (tmp_path / "m.gguf").write_bytes(raw)
        with Model(tmp_path / "m.gguf") as model:
            logits.append(model.logits([1, 2, 3]).tobytes())
    assert len(set(logits)) == 1


def test_learned_positions_end(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(tiny_model("gpt2").raw)
    with Model(tmp_path / "m.gguf") as model:
        assert model.n_ctx == model.config.n_ctx_max == 64
        with pytest.raises(ValueError, match=r"exceed the context of 64: shorten the prompt$"):
            model.sequence().feed([1] * 65)
    with pytest.raises(ValueError, match=r"n_ctx is 65, but .* has learned 64 positions: longer contexts can't be run"):
        Model(tmp_path / "m.gguf", n_ctx=65)
