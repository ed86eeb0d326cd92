"""What PEFT makes of an adapter beside plain LoRA: DoRA, biases, whole modules, token rows, checkpoints of torch; each
on random models against PEFT's own logits, and each as a GGUF adapter too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lora_edge.convert import convert_adapter, convert_model
from lora_edge.model import Model
from lora_edge.torch_file import TorchFile
from peer_models import LINEARS, fresh_rng, logits_of, random_adapter, random_model

BOUND = 1e-3
SHOWS = 100 * BOUND
HEADS = ["embed_tokens", "lm_head"]

KINDS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "dora, rslora, patterns": {"use_dora": True, "use_rslora": True, "rank_pattern": {"q_proj": 3},
                               "alpha_pattern": {"v_proj": 5}},
    "dora of the head": {"use_dora": True, "target_modules": ["lm_head", "k_proj"]},
    "dora of the embedding": {"use_dora": True, "target_modules": ["embed_tokens", "k_proj"]},
    "bias in lora_B": {"lora_bias": True},
    "bias in lora_B, rslora": {"lora_bias": True, "use_rslora": True, "target_modules": ["q_proj", "o_proj"]},
    "bias in lora_B of the head": {"lora_bias": True, "target_modules": ["lm_head", "k_proj"]},
    "whole modules": {"modules_to_save": HEADS},
    "whole linears": {"target_modules": ["v_proj"], "modules_to_save": ["down_proj", "q_proj"]},
    "a whole embedding": {"modules_to_save": ["embed_tokens"]},
    "a whole mlp": {"target_modules": ["k_proj"], "modules_to_save": ["layers.0.mlp"]},
    "token rows": {"trainable_token_indices": [3, 88, 41]},
    "token rows of both ends": {"trainable_token_indices": {"embed_tokens": [7], "lm_head": [5, 6]}},
    "some layers": {"layers_to_transform": [0], "exclude_modules": ["k_proj"]},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
}  # fmt: skip
UNTIED = {"token rows of both ends"}  # PEFT trains the rows of tied ends together


def texts_of(rng: np.random.Generator, n_vocab: int) -> list[list[int]]:
    texts = [[int(i) for i in rng.integers(0, n_vocab, n)] for n in (1, 9, 90)]
    return [*texts, [3, 88, 41, 7, 5, 6, *texts[1]]]


def check(ours: Model, theirs: Any, texts: list[list[int]], adapter: Any) -> None:
    for ids in texts:
        difference = np.abs(ours.logits(ids, adapter=adapter) - logits_of(theirs, ids)).max()
        assert difference <= BOUND, f"{len(ids)} ids: {difference}"


@pytest.mark.parametrize("cls", ["Llama", "Qwen2"])
@pytest.mark.parametrize(
    ("kind", "tied"), [(kind, tied) for kind in KINDS for tied in (False, True) if not (tied and kind in UNTIED)]
)
def test_kind(tmp_path: Path, cls: str, kind: str, tied: bool) -> None:
    rng = fresh_rng()
    source = random_model(cls, rng, tie_word_embeddings=tied)
    source.save_pretrained(tmp_path / "base")
    texts = texts_of(rng, source.config.vocab_size)
    alone = logits_of(source, texts[-1])
    torch_file = bool(rng.integers(2))
    adapted = random_adapter(source, tmp_path / "adapter", safe_serialization=not torch_file, **KINDS[kind])
    assert (tmp_path / "adapter" / "adapter_model.bin").exists() == torch_file
    assert np.abs(logits_of(adapted, texts[-1]) - alone).max() >= SHOWS
    base = convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")
    with Model(base) as ours:
        before = ours.logits(texts[2])
        ours.load_adapter(tmp_path / "adapter", name="folder")
        check(ours, adapted, texts, "folder")
        ours.load_adapter(convert_adapter(tmp_path / "adapter", base, tmp_path / "adapter.gguf"), name="file")
        check(ours, adapted, texts, "file")
        assert np.array_equal(ours.logits(texts[2]), before)


def test_two_doras_and_a_plain_one(tmp_path: Path) -> None:
    """PEFT's forward lets each DoRA scale what the base and the adapters before it make."""
    rng = fresh_rng()
    source = random_model("Qwen2", rng)
    source.save_pretrained(tmp_path / "base")
    texts = texts_of(rng, source.config.vocab_size)
    adapted = random_adapter(source, tmp_path, name="one", use_dora=True)
    random_adapter(adapted, tmp_path, name="two", r=3, target_modules=LINEARS[:5])
    random_adapter(adapted, tmp_path, name="three", use_dora=True, target_modules=["q_proj", "down_proj"])
    with Model(convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")) as ours:
        for name in ("one", "two", "three"):
            ours.load_adapter(tmp_path / name)
        for names in (["one"], ["one", "two", "three"], ["three", "two"], ["two", "one"]):
            adapted.base_model.set_adapter(names)
            check(ours, adapted, texts, dict.fromkeys(names, 1.0))


@pytest.mark.parametrize("weight", [0.5, -1.25, 2.0])
def test_weights_of_a_dora(tmp_path: Path, weight: float) -> None:
    """A weight scales B·A, and the norms with it."""
    rng = fresh_rng()
    source = random_model("Llama", rng)
    source.save_pretrained(tmp_path / "base")
    texts = texts_of(rng, source.config.vocab_size)
    adapted = random_adapter(source, tmp_path / "a", use_dora=True)
    for layer in (m for m in adapted.modules() if hasattr(m, "lora_magnitude_vector")):
        layer.set_scale("default", weight)
    with Model(convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")) as ours:
        ours.load_adapter(tmp_path / "a", name="given per call")
        ours.load_adapter(tmp_path / "a", name="given at load", scale=weight)
        check(ours, adapted, texts, {"given per call": weight})
        check(ours, adapted, texts, "given at load")


def test_whole_modules_of_two_adapters_exclude_each_other(tmp_path: Path) -> None:
    source = random_model("Llama", fresh_rng(), tie_word_embeddings=False)
    source.save_pretrained(tmp_path / "base")
    adapted = random_adapter(source, tmp_path, name="one", modules_to_save=["lm_head"])
    random_adapter(adapted, tmp_path, name="two", modules_to_save=HEADS)
    with Model(convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")) as ours:
        ours.load_adapter(tmp_path / "one")
        ours.load_adapter(tmp_path / "two")
        with pytest.raises(ValueError, match=r"'one' and 'two' both replace output\.weight"):
            ours.logits([1, 2], adapter={"one": 1.0, "two": 1.0})


def test_torch_files(tmp_path: Path) -> None:
    """What torch.save writes: each type, parts of a storage that tensors share, parameters, and what isn't tensors."""
    x = torch.randn(6, 4)
    types = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
    tensors: dict[str, Any] = {name: (x * 9).to(getattr(torch, name)) for name in types}
    tensors |= {"rows": x[2:4], "row": x[3], "all": x, "one": x[1:2], "parameter": torch.nn.Parameter(x[4:])}
    path = tmp_path / "adapter_model.bin"
    torch.save(tensors, path)
    file = TorchFile(path)
    assert list(file) == list(tensors)
    for name, tensor in tensors.items():
        wanted = tensor.detach()
        wanted = (wanted.view(torch.int16) if name == "bfloat16" else wanted).numpy()
        made = file.array(name)
        assert made.shape == wanted.shape and made.tobytes() == np.ascontiguousarray(wanted).tobytes(), name
    torch.save(torch.nn.Linear(3, 2).state_dict(), path)
    assert list(TorchFile(path)) == ["weight", "bias"]
    for other in (x.T, x[:, :2], x.to_sparse(), torch.nn.Linear(3, 2), [x], {"a": 1}, {"a": {"b": x}}):
        torch.save(other if not torch.is_tensor(other) else {"a": other}, path)
        with pytest.raises(ValueError, match=r"\[torch\]"):
            TorchFile(path)
    torch.save({"a": x}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"torch 1\.6 or later"):
        TorchFile(path)
