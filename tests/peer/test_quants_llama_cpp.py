"""Files as llama.cpp itself quantises them: they load, and cost here what they cost there.

p is the model before it was quantised, in float32. KL(p‖ours) is what the blocks and quantised activations cost here,
llama.cpp's KL on the same file what they have to.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from conftest import SHARED, needs_shared
from llama_cpp_runs import llama_cpp_logits
from lora_edge.gguf_file import open_gguf
from lora_edge.model import Model
from peer_models import words_of
from test_kl_llama_cpp import kl
from tiny_models import fresh_rng, random_shape, random_tensors, write_model

FILE_TYPES = {"Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_M": 12, "Q4_K_M": 15, "Q5_K_M": 17,
              "Q6_K": 18, "IQ4_NL": 25}  # fmt: skip


def quantise(source: Path, out: Path, kind: str) -> set[str]:
    """Writes `source` as llama.cpp quantises it; the types of its matrices."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPES[kind], 1
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0
    return {type for shape, type, _ in open_gguf(out).core.tensors().values() if len(shape) == 2}


def compare(source: Path, file: Path, windows: list[list[int]]) -> tuple[float, float, float]:
    """Mean KL of ours and of llama.cpp's, and how often both choose the same token."""
    with Model(source, kv_type="f32") as model:
        wanted = [model.logits(ids) for ids in windows]
    with Model(file) as model:
        ours = [model.logits(ids) for ids in windows]
    theirs = llama_cpp_logits(file, windows, None)
    costs = [
        float(np.concatenate([kl(p, q) for p, q in zip(wanted, made, strict=True)]).mean()) for made in (ours, theirs)
    ]
    same = np.concatenate([a.argmax(-1) == b.argmax(-1) for a, b in zip(ours, theirs, strict=True)]).mean()
    print(f"{file.stem}: KL ours {costs[0]:.3e}, llama.cpp {costs[1]:.3e}, same top-1 {same:.3f}")
    return costs[0], costs[1], float(same)


@needs_shared
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_1", "Q4_K_M"])
def test_real_model(tmp_path: Path, kind: str) -> None:
    """Its rows of 128 are no super-blocks: in a Q4_K_M file they are Q5_0 and Q8_0."""
    source = SHARED / "gguf/TinyStories-656K-f32.gguf"
    types = quantise(source, tmp_path / f"{kind}.gguf", kind)
    assert types >= ({"Q5_0", "Q8_0"} if kind == "Q4_K_M" else {kind})
    text = words_of("TinyStories-656K", "tinystories_1.5MiB.txt", 2560)
    ours, theirs, same = compare(source, tmp_path / f"{kind}.gguf", [text[i : i + 256] for i in range(0, 2560, 256)])
    assert ours <= 1.1 * theirs
    assert same >= 0.95


@pytest.mark.parametrize("kind", FILE_TYPES)
def test_super_blocks(tmp_path: Path, kind: str) -> None:
    """A random model of whole super-blocks: every kind of file that llama.cpp makes without calibration."""
    rng = fresh_rng()
    shape = random_shape(rng, "llama", d=512, n_head=8, n_kv=2, head_dim=64, n_ff=768, n_layer=4, n_vocab=512,
                         tied=False, bias=False, rope_factors=False, rope_linear=None)  # fmt: skip
    source = write_model(tmp_path / "source.gguf", shape, random_tensors(rng, shape), vocabulary=_vocabulary(512))
    types = quantise(source, tmp_path / f"{kind}.gguf", kind)
    assert kind.removesuffix("_M") in types
    assert kind != "Q4_K_M" or types == {"Q4_K", "Q6_K"}
    windows = [[int(t) for t in rng.integers(3, 512, 128)] for _ in range(4)]
    ours, theirs, _ = compare(source, tmp_path / f"{kind}.gguf", windows)
    assert ours <= 1.1 * theirs


def _vocabulary(n: int) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *(f"t{i}" for i in range(n))][:n]
    types = [2, 3, 3, *[6] * 256, *[1] * n][:n]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": -np.arange(n, dtype=np.float32),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
