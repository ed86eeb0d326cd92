"""Mistakes that people make, and what they are told: each message names the thing, the numbers and the way out."""

from __future__ import annotations

import os
import re
from pathlib import Path

import lora_edge
import numpy as np
import pytest
from conftest import SHARED, needs_shared
from tiny_gguf import Q8_0, Tensor, patch, tiny_adapter, tiny_model, write_gguf
from tiny_models import fresh_rng, random_factors, random_shape, random_tensors, write_adapter, write_model

MODEL = tiny_model("llama")


@pytest.fixture
def model(tmp_path: Path) -> lora_edge.Model:
    """8 wide, with a context of 64 and 40 tokens."""
    (tmp_path / "model.gguf").write_bytes(MODEL.raw)
    return lora_edge.load(tmp_path / "model.gguf", threads=1)


def refused(path: Path, raw: bytes) -> str:
    """What loading these bytes as a model says."""
    path.write_bytes(raw)
    with pytest.raises(ValueError) as error:
        lora_edge.load(path)
    assert type(error.value) is ValueError
    return str(error.value)


def test_missing_file(tmp_path: Path, model: lora_edge.Model) -> None:
    path = tmp_path / "nope.gguf"
    for call in (
        lambda: lora_edge.load(path),
        lambda: lora_edge.generate("a", model=path),
        lambda: model.load_adapter(path),
    ):
        with pytest.raises(FileNotFoundError, match=re.escape(str(path))) as error:
            call()
        assert error.value.strerror == "No such file or directory"
    with pytest.raises(FileNotFoundError, match=r"neither a loaded adapter \(none\) nor a file"):
        lora_edge.generate("a", model=model, adapter="pirate")
    with pytest.raises(ValueError, match=r"no adapter 'pirate' is loaded \(loaded: none\)"):
        model.generate("a", adapter="pirate")


def test_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.gguf"
    with pytest.raises(FileNotFoundError) as error:
        lora_edge.load(os.fsdecode(path))
    assert os.fsencode(error.value.filename) == path
    Path(os.fsdecode(path)).write_bytes(MODEL.raw)
    assert lora_edge.load(os.fsdecode(path)).config.n_vocab == 40


def test_adapter_of_another_base(tmp_path: Path, model: lora_edge.Model) -> None:
    path = tmp_path / "wide.gguf"
    path.write_bytes(tiny_adapter("llama", base=Q8_0).raw)
    with pytest.raises(ValueError) as error:
        model.load_adapter(path)
    shapes = "blk.0.attn_q.weight is (32, 32) in the adapter and (8, 8) in the base"
    assert str(error.value) == f"[adapter] {path} is for another base: {shapes}"
    path.write_bytes(tiny_adapter("qwen2").raw)
    with pytest.raises(ValueError, match="made for architecture 'qwen2', the base is 'llama'"):
        model.load_adapter(path)
    assert not model.adapters and model.generate("ab", max_tokens=1) is not None


@needs_shared
def test_peft_adapter_of_another_base(model: lora_edge.Model) -> None:
    with pytest.raises(ValueError) as error:
        model.load_adapter(SHARED / "adapters/smollm135m-medflash-100ep")
    assert "is for another base: blk.0.attn_q.weight is (576, 576) in the adapter and (8, 8) in the base" in str(
        error.value
    )


@pytest.mark.parametrize("type", ["f32", "f16"])
@pytest.mark.parametrize("side", ["lora_a", "lora_b"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_adapter_that_holds_no_numbers(tmp_path: Path, side: str, type: str, value: float) -> None:
    rng = fresh_rng()
    shape = random_shape(rng, "llama")
    base = write_model(tmp_path / "base.gguf", shape, random_tensors(rng, shape), "f32")
    factors = random_factors(rng, shape, r=3)
    good = write_adapter(tmp_path / "good.gguf", "llama", factors, type=type)
    name, entry = list(factors.items())[int(rng.integers(len(factors)))]
    entry[side == "lora_b"].flat[0] = value
    bad = write_adapter(tmp_path / "bad.gguf", "llama", factors, type=type)
    with lora_edge.Model(base) as model:
        model.load_adapter(good)
        with pytest.raises(ValueError, match=rf"'{name}': {side} holds NaN or infinity"):
            model.load_adapter(bad)
        with pytest.raises(ValueError, match="scale is '1', not a number"):
            model.load_adapter(good, name="x", scale="1")  # type: ignore[arg-type]
        assert list(model.adapters) == ["good"]


def test_names_of_adapters(tmp_path: Path, model: lora_edge.Model) -> None:
    (tmp_path / "v1.5.gguf").write_bytes(tiny_adapter("llama").raw)
    assert model.load_adapter(tmp_path / "v1.5.gguf").name == "v1.5"
    for bad in (5, ""):
        with pytest.raises(ValueError, match=f"name is {bad!r}"):
            model.load_adapter(tmp_path / "v1.5.gguf", name=bad)  # type: ignore[arg-type]
    adapter = model.adapters["v1.5"]
    assert len(repr(adapter)) < 200 + len(str(tmp_path)) and {adapter: 1}[adapter] == 1
    with pytest.raises(ValueError, match=r"give its name, 'v1\.5'"):
        model.generate("a", adapter=adapter)  # type: ignore[arg-type]


def test_prompt_longer_than_the_context(model: lora_edge.Model) -> None:
    with pytest.raises(ValueError) as error:
        model.generate([5] * 65)
    assert str(error.value) == (
        "the prompt has 65 tokens, more than the context of 64: shorten it, or load the model with a larger n_ctx (-c)"
    )
    with pytest.raises(ValueError, match=r"2 tokens of prompt .* 63 = 65 exceed the context of 64: lower max_tokens"):
        model.generate([5, 5], max_tokens=63)
    sequence = model.sequence()
    sequence.feed([5] * 60)
    with pytest.raises(ValueError, match=r"60 positions .* 5 new tokens = 65 exceed the context of 64"):
        sequence.feed([5] * 5)
    assert len(sequence) == 60
    sequence.feed([5] * 4)


def test_token_outside_the_vocabulary(model: lora_edge.Model) -> None:
    for token in (40, -1):
        with pytest.raises(ValueError, match=rf"token id {token} is outside the vocabulary of 40"):
            model.sequence().feed([token])


def test_context_beyond_reason(tmp_path: Path, model: lora_edge.Model) -> None:
    for n_ctx in (0, -5, 1 << 40):
        with pytest.raises(ValueError, match=f"n_ctx is {n_ctx}, not a whole number from 1 to"):
            lora_edge.load(model.path, n_ctx=n_ctx)


def test_empty_file(tmp_path: Path, model: lora_edge.Model) -> None:
    path = tmp_path / "empty.gguf"
    assert refused(path, b"") == f"[file] '{path}' is empty"
    with pytest.raises(ValueError, match="is empty"):
        model.load_adapter(path)


def test_folder(tmp_path: Path, model: lora_edge.Model) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"is not a Hugging Face model folder: it has no config\.json"):
        lora_edge.load(folder)
    with pytest.raises(FileNotFoundError, match=r"is not a PEFT adapter: it has no adapter_config\.json"):
        model.load_adapter(folder)
    with pytest.raises(IsADirectoryError, match=re.escape(str(folder))):
        lora_edge.Model(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter, not a model: load its base"):
        lora_edge.load(folder)


def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ValueError, match=r"pipe\.gguf' is not a regular file"):
        lora_edge.load(tmp_path / "pipe.gguf")


def test_path_with_nul() -> None:
    with pytest.raises(ValueError, match="null byte"):
        lora_edge.load("a\0b.gguf")


@pytest.mark.parametrize("kept", [5, 20, 100, 400, 1500, len(MODEL.raw) - 1])
def test_truncated_download(tmp_path: Path, kept: int) -> None:
    text = refused(tmp_path / "part.gguf", MODEL.raw[:kept])
    assert text.startswith(f"[gguf] '{tmp_path}/part.gguf': ") and text.endswith("is it truncated?")


def test_something_else(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    assert refused(path, b"<html>404 not found</html>") == f"[gguf] '{path}': this is not a GGUF file"


def test_versions(tmp_path: Path) -> None:
    version = next(f for f in MODEL.fields if f.kind == "version")
    text = refused(tmp_path / "v1.gguf", patch(MODEL.raw, version.at, 1, 4))
    assert text.endswith("GGUF version 1 is not supported, 2 and 3 are: convert the model with a current converter")
    text = refused(tmp_path / "big.gguf", patch(MODEL.raw, version.at, 3 << 24, 4))
    assert "this is a big-endian GGUF file, which is not supported" in text


def test_unsupported_architecture(tmp_path: Path) -> None:
    text = refused(tmp_path / "m.gguf", tiny_model(metadata={"general.architecture": "rwkv"}).raw)
    known = "llama, qwen2, qwen3, gemma2, gemma3, phi3, gpt2, olmo2, granite, stablelm, smollm3 and bert"
    assert text == f"[model] architecture 'rwkv' is not supported; {known} are"


def test_unsupported_type(tmp_path: Path) -> None:
    mxfp4 = 39
    q = {"blk.0.attn_q.weight": Tensor(mxfp4, (2, 32), bytes(34))}
    meta = {"general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 32,
            "llama.context_length": 8, "llama.feed_forward_length": 8, "llama.attention.head_count": 2,
            "llama.attention.layer_norm_rms_epsilon": 1e-5}  # fmt: skip
    raw = write_gguf(meta, {"token_embd.weight": Tensor(mxfp4, (2, 32), bytes(34)), **q}).raw
    text = refused(tmp_path / "q4.gguf", raw)
    assert "blk.0.attn_q.weight" in text and text.endswith(
        "has type MXFP4, which is not supported: convert the model with type F32, F16, BF16 or Q8_0, or take a file in "
        "Q4_0, Q4_K_M or another of Q4_0 to Q6_K"
    )


def test_model_and_adapter_confused(tmp_path: Path, model: lora_edge.Model) -> None:
    text = refused(tmp_path / "adapter.gguf", tiny_adapter().raw)
    assert text.endswith("is an adapter, not a model: load a base model and pass this as its adapter")
    with pytest.raises(ValueError, match=r"model\.gguf is not an adapter: load it as a model"):
        model.load_adapter(model.path)


def test_file_without_weights(tmp_path: Path) -> None:
    meta = {"general.architecture": "llama", "llama.block_count": 1}
    assert "[model] metadata 'llama.embedding_length' is missing" in refused(
        tmp_path / "m.gguf", write_gguf(meta, {}).raw
    )


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Bytes of the file that are no UTF-8, and line breaks, are escaped in messages."""
    text = refused(tmp_path / "m.gguf", write_gguf({}, {"\udcff\n": Tensor(0, (4,), b"")}).raw)
    assert r"tensor '\xff\x0a': 16 bytes at offset 0" in text
