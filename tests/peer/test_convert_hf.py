"""Conversion against transformers, PEFT and llama.cpp: freshly drawn tiny models and adapters, compared by
tensors, scales and logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llama_cpp_runs import N_VOCAB, exact_logits, give_tokenizer
from lora_edge.adapter_file import BaseInfo, LoraEntry, read_adapter
from lora_edge.base_copy import check_base_copies
from lora_edge.convert import convert_adapter, convert_model
from lora_edge.gguf_file import open_gguf
from lora_edge.hf_names import gguf_stem
from lora_edge.quant import to_f32
from peer_models import ADAPTERS, LLAMA3, fresh_rng, logits_of, random_adapter, random_model

CLASSES = ["Llama", "Mistral", "Qwen2", "Qwen3"]


def in_gguf_order(rows: Any, n_head: int) -> Any:
    """Rows of q or k [n_head * 2 * half, ...]: the halves of each head interleaved."""
    half = rows.shape[0] // n_head // 2
    return rows.unflatten(0, (n_head, 2, half)).transpose(1, 2).flatten(0, 2)


def expected(model: Any, name: str, tensor: Any) -> np.ndarray:
    config = model.config
    if config.model_type in ("llama", "mistral") and ("q_proj" in name or "k_proj" in name):
        n_head = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        tensor = in_gguf_order(tensor, n_head)
    return np.asarray(tensor.detach().numpy())


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("shard", ["10GB", "20KB"])
def test_every_tensor(tmp_path: Path, cls: str, shard: str) -> None:
    model = random_model(cls, fresh_rng())
    model.save_pretrained(tmp_path, max_shard_size=shard)
    made = open_gguf(convert_model(tmp_path, tmp_path / "out.gguf", type="f32")).tensors
    names = []
    for name, p in model.named_parameters():
        module, _, part = name.rpartition(".")
        names.append(f"{gguf_stem(module)}.{part}")
        assert np.array_equal(made[names[-1]], expected(model, name, p)), name
    assert sorted(names) == sorted(made)


def test_llama3_frequencies(tmp_path: Path) -> None:
    model = random_model("Llama", fresh_rng(), rope_parameters=LLAMA3, head_dim=64)
    model.save_pretrained(tmp_path)
    made = open_gguf(convert_model(tmp_path, tmp_path / "out.gguf")).tensors["rope_freqs.weight"]
    plain = 5e5 ** -(torch.arange(0, 64, 2, dtype=torch.float64) / 64)
    wanted = (plain / model.model.rotary_emb.inv_freq.double()).numpy()
    assert wanted.min() < 1.01 and wanted.max() > 1.5
    np.testing.assert_allclose(made, wanted, rtol=1e-5)


def delta(stem: str, entry: LoraEntry) -> np.ndarray:
    a, b = to_f32(entry.a).astype(np.float64), to_f32(entry.b).astype(np.float64)
    return entry.scale * (a @ b.T if stem == "token_embd" else b @ a)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters(tmp_path: Path, cls: str, kind: str, dtype: str) -> None:
    model = random_model(cls, fresh_rng())
    model.save_pretrained(tmp_path / "base")
    adapted = random_adapter(model, tmp_path / "adapter", **ADAPTERS[kind])
    if dtype == "bfloat16":
        adapted = adapted.to(torch.bfloat16)
        adapted.save_pretrained(tmp_path / "adapter")
    base_file = open_gguf(convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32"))
    base = BaseInfo.from_gguf(base_file)
    adapter = read_adapter(tmp_path / "adapter", base.arch, base)
    check_base_copies(adapter, base_file.tensors.get)
    assert (len(adapter.base_copies) > 0) == ("embed" in kind or kind == "head")

    layers = {name: m for name, m in adapted.base_model.model.named_modules() if hasattr(m, "lora_A")}
    assert len(adapter.entries) == len(layers)
    made = read_adapter(
        convert_adapter(tmp_path / "adapter", tmp_path / "base", tmp_path / "adapter.gguf"), base.arch, base
    )
    for name, layer in layers.items():
        stem = gguf_stem(name)
        assert stem is not None
        entry = adapter.entries[f"{stem}.weight"]
        assert entry.scale == layer.scaling["default"], name
        assert entry.bf16 == (dtype == "bfloat16")
        wanted = expected(model, name, layer.float().get_delta_weight("default"))
        bound = 1e-5 * np.abs(wanted).max()
        assert np.abs(delta(stem, entry) - wanted).max() <= bound, name
        assert np.abs(delta(stem, made.entries[f"{stem}.weight"]) - wanted).max() <= bound, name


SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3 frequencies": ("Llama", {"rope_parameters": LLAMA3, "head_dim": 64}),
    "linear scaling": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    ),
    "attention bias": ("Llama", {"attention_bias": True}),
    "tied": ("Qwen3", {"tie_word_embeddings": True}),
    "window": ("Mistral", {"sliding_window": 64}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_in_llama_cpp(tmp_path: Path, name: str) -> None:
    rng = fresh_rng()
    cls, changes = SETTINGS[name]
    model = random_model(cls, rng, vocab_size=N_VOCAB, **changes)
    model.save_pretrained(tmp_path)
    give_tokenizer(tmp_path)
    ids = [int(i) for i in rng.integers(3, N_VOCAB, 64)]
    wanted = logits_of(model, ids)
    made = exact_logits(convert_model(tmp_path, tmp_path / "out.gguf", type="f32"), ids)
    assert wanted.std() > 0.3
    assert np.abs(made - wanted).max() < 1e-3


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kind", ["plain", "rslora", "per-module rank and alpha", "embedding and head"])
def test_logits_in_llama_cpp(tmp_path: Path, cls: str, kind: str) -> None:
    """The files mean in llama.cpp what their sources mean in transformers and PEFT."""
    rng = fresh_rng()
    # llama.cpp applies an adapter of a tied embedding to the output too, as if it were one of the output
    model = random_model(cls, rng, vocab_size=N_VOCAB, tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "base")
    give_tokenizer(tmp_path / "base")
    base = convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")
    ids = [int(i) for i in rng.integers(3, N_VOCAB, 60)]

    wanted = logits_of(model, ids)
    assert wanted.std() > 0.3
    assert np.abs(exact_logits(base, ids) - wanted).max() < 1e-3
    adapted = random_adapter(model, tmp_path / "adapter", **ADAPTERS[kind])
    lora = convert_adapter(tmp_path / "adapter", tmp_path / "base", tmp_path / "adapter.gguf")
    with_adapter = logits_of(adapted, ids)
    assert np.abs(with_adapter - wanted).max() > 0.3
    assert np.abs(exact_logits(base, ids, lora) - with_adapter).max() < 1e-3
