"""Weights in blocks of 2 to 6 bits: what they mean, against gguf-py, and models of them, against the reference."""

from __future__ import annotations

from pathlib import Path

import gguf
import lora_edge
import numpy as np
import pytest
from conftest import SHARED, needs_shared
from hf_folders import write_peft
from lora_edge.gguf_file import BLOCKS as NAMES, BlockRows, open_gguf
from lora_edge.model import Model
from reference import Reference, ReferenceAdapter
from tiny_gguf import Tensor, write_gguf
from tiny_models import (
    BLOCKS,
    SCALES,
    fresh_rng,
    random_blocks,
    random_factors,
    random_shape,
    random_tensors,
    write_adapter,
    write_model,
)

TIGHT = 1e-3
HALVES = {**SCALES, "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2]}  # where scales lie in a block


def kind_of(type: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[type.upper()]


def test_every_type_is_tested() -> None:
    assert {name.lower() for name in NAMES} == set(BLOCKS) == set(HALVES)


@pytest.mark.parametrize("type", BLOCKS)
def test_dequantises_as_ggml(tmp_path: Path, type: str) -> None:
    """Any bytes, and scales that are huge, tiny, negative, infinite and no numbers."""
    rng = fresh_rng()
    elements, size = gguf.GGML_QUANT_SIZES[kind_of(type)]
    n, k = 65, 3 * elements
    raw = rng.integers(0, 256, (n, 3, size), dtype=np.uint8)
    for at in HALVES[type]:
        halves = rng.standard_normal((n, 3)).astype("<f2")
        halves[:8] = rng.integers(0, 1 << 16, (8, 3), dtype=np.uint16).view(np.float16)
        halves[8:12, 0] = [np.inf, np.nan, 6e-8, -65504]
        raw[:, :, at : at + 2] = halves[:, :, None].view(np.uint8)
    raw = raw.reshape(n, -1)
    path = tmp_path / "w.gguf"
    path.write_bytes(write_gguf({}, {"w": Tensor(int(kind_of(type)), (n, k), raw.tobytes())}).raw)
    rows = open_gguf(path).tensors["w"]
    assert isinstance(rows, BlockRows) and rows.shape == (n, k)
    with np.errstate(all="ignore"):
        wanted = gguf.quants.dequantize(raw, kind_of(type))
    made = rows[:]
    assert np.array_equal(made, wanted, equal_nan=True)
    numbers = ~np.isnan(wanted)
    assert np.array_equal(made.view(np.uint32)[numbers], wanted.view(np.uint32)[numbers])  # the signs of zeros too
    assert np.array_equal(rows[5:9], made[5:9], equal_nan=True) and rows[9:5].shape == (0, k)
    assert np.array_equal(rows[[9, 0, 9]], made[[9, 0, 9]], equal_nan=True) and rows[[]].shape == (0, k)


def write_blocks(path: Path, type: str, **changes: object) -> tuple[np.random.Generator, object]:
    """A model whose depths are whole super-blocks; the embedding has blocks too."""
    rng = fresh_rng()
    sizes = {"d": 256, "n_head": 4, "n_kv": 2, "head_dim": 64, "n_ff": 512, "n_layer": 2, "n_vocab": 90}
    shape = random_shape(rng, str(changes.pop("arch", "llama")), **sizes, **changes)
    write_model(path, shape, random_tensors(rng, shape), type)
    return rng, shape


@pytest.mark.parametrize("type", BLOCKS)
def test_model(tmp_path: Path, type: str) -> None:
    """Decoding (1 to 3 rows) and prefill (more). An activation within float32's rounding of the middle of two steps may
    go either way and move what follows: rare enough that many short prompts agree closely."""
    rng, shape = write_blocks(tmp_path / "base.gguf", type)
    write_adapter(tmp_path / "a.gguf", "llama", random_factors(rng, shape))
    reference, adapter = Reference(tmp_path / "base.gguf"), ReferenceAdapter(tmp_path / "a.gguf")
    assert {name for name, x in reference.w.items() if x.ndim == 2} == reference.quantised
    differences = []
    with Model(tmp_path / "base.gguf", kv_type="f32", threads=2) as model:
        model.load_adapter(tmp_path / "a.gguf")
        for i in range(12):
            ids = [int(t) for t in rng.integers(0, 90, (1, 2, 3, 5, 18)[i % 5])]
            name, set_ = ("a", [(adapter, 1.0)]) if i % 2 else (None, [])
            made, wanted = model.logits(ids, adapter=name), reference.logits(ids, set_)
            differences.append(float(np.abs(made - wanted).max() / max(1.0, np.abs(wanted).max())))
        ids = [int(t) for t in rng.integers(0, 90, 30)]
        sequence = model.sequence()
        for token in ids:
            sequence.feed([token])
        assert np.array_equal(sequence.logits(), model.logits(ids)[-1])  # one by one, the same bits as at once
    print(sorted(differences))
    assert sum(d <= TIGHT for d in differences) >= 5
    assert max(differences) < 0.5


def test_mixture(tmp_path: Path) -> None:
    """A file as Q4_K_M is: types differ between tensors, also between those that share an input."""
    rng = fresh_rng()
    sizes = {"d": 256, "n_head": 4, "n_kv": 2, "head_dim": 64, "n_ff": 512, "n_layer": 1, "n_vocab": 90}
    shape = random_shape(rng, "llama", tied=False, bias=False, **sizes)
    types = {"attn_v": "q6_k", "ffn_down": "q6_k", "output": "q6_k", "attn_k": "q8_0", "ffn_up": "f16"}
    path = write_model(tmp_path / "base.gguf", shape, random_tensors(rng, shape), "q4_k",
                       types={f"{where}{stem}.weight": type for stem, type in types.items()
                              for where in ("blk.0.", "")})  # fmt: skip
    kinds = {name: kind for name, (_, kind, _) in open_gguf(path).core.tensors().items()}
    assert kinds["blk.0.attn_q.weight"] == "Q4_K" and kinds["blk.0.attn_v.weight"] == "Q6_K"
    reference = Reference(path)
    with Model(path, threads=2) as model:
        assert model.core.kv_type == "f16"
        close: list[bool] = []
        for n in (1, 3, 6, 7, 9):
            ids = [int(t) for t in rng.integers(0, 90, n)]
            reference.kv_type = "f16"
            wanted = reference.logits(ids)
            close += (np.abs(model.logits(ids) - wanted).max(1) / np.abs(wanted).max() <= TIGHT).tolist()
    print(np.mean(close))
    assert np.mean(close) >= 0.6


def test_trained_rows_of_an_embedding_in_blocks(tmp_path: Path) -> None:
    """PEFT's trainable_token_indices: a text of these tokens alone runs as with the trained rows in their places."""
    rng, _ = write_blocks(tmp_path / "base.gguf", "q4_0", tied=False)
    rows = rng.standard_normal((2, 256)).astype(np.float32)
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    folder = write_peft(tmp_path / "peft", {name: rows}, trainable_token_indices=[7, 3])
    reference = Reference(tmp_path / "base.gguf")
    reference.w["token_embd.weight"][[7, 3]] = rows
    with Model(tmp_path / "base.gguf", kv_type="f32") as model:
        model.load_adapter(folder, name="rows")
        for ids in ([7], [3, 7], [3, 5, 7]):
            made, wanted = model.logits(ids, adapter="rows"), reference.logits(ids)
            assert np.abs(made - wanted).max() < 0.1 * np.abs(wanted).max()
            assert np.abs(made - model.logits(ids)).max() > 0.3 * np.abs(wanted).max()


@pytest.mark.parametrize("type", BLOCKS)
def test_damaged_scales(tmp_path: Path, type: str) -> None:
    """Weights that are no numbers give logits that are none, which is an error where a token is chosen."""
    rng, _ = write_blocks(tmp_path / "base.gguf", type, tied=True)
    embedding = random_blocks(rng.standard_normal((90, 256)).astype(np.float32), type)
    raw = (tmp_path / "base.gguf").read_bytes()
    file = gguf.GGUFReader(tmp_path / "base.gguf")
    tensor = next(t for t in file.tensors if t.name == "token_embd.weight")
    size = gguf.GGML_QUANT_SIZES[kind_of(type)][1]
    damaged = np.array(embedding).reshape(-1, size)
    at = HALVES[type][0]
    damaged[:, at : at + 2] = np.array([np.nan], "<f2").view(np.uint8)
    start = int(tensor.data_offset)
    (tmp_path / "nan.gguf").write_bytes(raw[:start] + damaged.tobytes() + raw[start + damaged.nbytes :])
    with Model(tmp_path / "nan.gguf") as model:
        assert np.isnan(model.logits([1, 2, 3, 4, 5])).all()


def test_rows_are_whole_blocks(tmp_path: Path) -> None:
    path = tmp_path / "w.gguf"
    path.write_bytes(write_gguf({}, {"w": Tensor(12, (2, 128), bytes(144))}).raw)
    with pytest.raises(ValueError, match=r"tensor 'w': rows of 128 elements are no multiple of Q4_K's block of 256"):
        open_gguf(path)


@needs_shared
@pytest.mark.parametrize("name", ["stories260K-q4_0", "TinyStories-656K-q5_1"])
def test_real_files(name: str) -> None:
    path = SHARED / f"gguf/{name}.gguf"
    reference = Reference(path, "f16")
    with lora_edge.load(path) as model:
        ids = model.tokenizer.encode("Once upon a time there was a little girl")
        made, wanted = model.logits(ids), reference.logits(ids)
        assert np.abs(made - wanted).max() < 0.5 and (made.argmax(-1) == wanted.argmax(-1)).mean() > 0.8
        assert len(model.generate("Once upon a time", max_tokens=30)) > 30
