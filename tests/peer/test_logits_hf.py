"""Logits and greedy ids against transformers and PEFT in float32: random tiny models of each architecture and the two
real ones, alone, with adapters of each kind, and with two at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import needs_shared
from lora_edge.convert import convert_adapter, convert_model
from lora_edge.model import Model
from peer_models import (
    ADAPTERS,
    LINEARS,
    REAL,
    VARIANTS,
    fresh_rng,
    logits_of,
    lora_layers,
    random_adapter,
    random_model,
    real_folder,
    real_model,
    trained_adapter,
    words_of,
)

BOUND = 1e-3
SHOWS = 100 * BOUND
worst: dict[str, float] = {}


@pytest.fixture(scope="module", autouse=True)
def figures() -> Iterator[None]:
    yield
    for name, value in worst.items():
        print(f"max |Δlogit| {name}: {value:.1e}")


def prompts(rng: np.random.Generator, n_vocab: int) -> list[list[int]]:
    lengths = [1, 2, int(rng.integers(3, 64)), int(rng.integers(65, 200)), 200]
    return [random_ids(rng, n_vocab, n) for n in lengths]


def random_ids(rng: np.random.Generator, n_vocab: int, n: int) -> list[int]:
    return [int(i) for i in rng.integers(0, n_vocab, n)]


def check(what: str, ours: Model, theirs: Any, texts: list[list[int]], adapter: Any = None) -> None:
    for ids in texts:
        wanted = logits_of(theirs, ids)
        if len(ids) >= 64:
            assert wanted.std() >= 1
        difference = float(np.abs(ours.logits(ids, adapter=adapter) - wanted).max())
        worst[what] = max(worst.get(what, 0.0), difference)
        assert difference <= BOUND, f"{what}, {len(ids)} ids: {difference}"


@contextmanager
def replaced(tensor: Any, value: float) -> Iterator[None]:
    kept = tensor.detach().clone()
    with torch.no_grad():
        tensor.fill_(value)
        try:
            yield
        finally:
            tensor.copy_(kept)


def assert_every_part_shows(model: Any, ids: list[int]) -> None:
    """Leaving out RoPE, any one bias or any one norm's weight moves the logits far beyond the bound."""
    whole = logits_of(model, ids)
    parts = {"rope": (model.model.rotary_emb.inv_freq, 0.0)}
    for name, p in model.named_parameters():
        if p.ndim == 1:
            parts[name] = (p, 1.0 if "norm" in name else 0.0)
    assert sum("norm" in name for name in parts) >= 3
    for name, (tensor, neutral) in parts.items():
        with replaced(tensor, neutral):
            moved = np.abs(logits_of(model, ids) - whole).max()
        assert moved >= SHOWS, f"{name} moves the logits by {moved} only"


@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("variant", VARIANTS)
def test_base(tmp_path: Path, variant: str, draw: int) -> None:
    rng = fresh_rng()
    cls, changes = VARIANTS[variant]
    source = random_model(cls, rng, **changes)
    source.save_pretrained(tmp_path)
    texts = prompts(rng, source.config.vocab_size)
    assert_every_part_shows(source, texts[-1])
    with Model(convert_model(tmp_path, tmp_path / "base.gguf", type="f32")) as ours:
        check(f"base, {variant}", ours, source, texts)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cls", ["Llama", "Mistral", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapter(tmp_path: Path, cls: str, kind: str, tied: bool) -> None:
    """A PEFT folder as it is, and the GGUF adapter made from it."""
    rng = fresh_rng()
    source = random_model(cls, rng, tie_word_embeddings=tied)
    source.save_pretrained(tmp_path / "base")
    texts = prompts(rng, source.config.vocab_size)
    alone = logits_of(source, texts[-1])
    adapted = random_adapter(source, tmp_path / "adapter", **ADAPTERS[kind])
    assert np.abs(logits_of(adapted, texts[-1]) - alone).max() >= SHOWS
    base = convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")
    with Model(base) as ours:
        ours.load_adapter(tmp_path / "adapter", name="folder")
        ours.load_adapter(convert_adapter(tmp_path / "adapter", base, tmp_path / "adapter.gguf"), name="file")
        check(f"adapter, {kind}", ours, adapted, texts, "folder")
        check(f"adapter as GGUF, {kind}", ours, adapted, texts, "file")
        with adapted.disable_adapter():
            check("base beside an adapter", ours, adapted, texts[:3] + texts[-1:])


def set_weights(adapted: Any, weights: dict[str, float]) -> None:
    """PEFT runs all active adapters side by side; a layer's scale is set relative to the adapter's own."""
    adapted.base_model.set_adapter(list(weights))
    for layer in lora_layers(adapted):
        for name, weight in weights.items():
            layer.set_scale(name, weight)


@pytest.mark.parametrize("cls", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_two_adapters_with_weights(tmp_path: Path, cls: str) -> None:
    rng = fresh_rng()
    source = random_model(cls, rng)
    source.save_pretrained(tmp_path / "base")
    texts = prompts(rng, source.config.vocab_size)
    adapted = random_adapter(source, tmp_path / "first", name="first", use_rslora=True)
    second = {"r": 3, "lora_alpha": 6, "target_modules": ["embed_tokens", "lm_head", *LINEARS[2:]]}
    random_adapter(adapted, tmp_path / "second", name="second", **second)
    with Model(convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")) as ours:
        for name in ("first", "second"):
            ours.load_adapter(tmp_path / name / name)
        seen = []
        for weights in ({"first": 1.0, "second": 1.0}, {"first": 0.7, "second": -1.3}, {"second": 0.4}):
            set_weights(adapted, weights)
            seen.append(logits_of(adapted, texts[-1]))
            check("two adapters with weights", ours, adapted, texts, weights)
        assert min(np.abs(seen[i] - seen[i - 1]).max() for i in range(3)) >= SHOWS


@pytest.mark.parametrize("cls", ["Llama", "Qwen3"])
def test_weights_as_peft_combines_them(tmp_path: Path, cls: str) -> None:
    """add_weighted_adapter's "cat" is exact: the sum of the weighted adapters."""
    rng = fresh_rng()
    source = random_model(cls, rng)
    source.save_pretrained(tmp_path / "base")
    adapted = random_adapter(source, tmp_path / "a", name="a")
    random_adapter(adapted, tmp_path / "b", name="b", r=2, lora_alpha=3)
    adapted.add_weighted_adapter(["a", "b"], [0.6, 1.7], adapter_name="both", combination_type="cat")
    adapted.set_adapter("both")
    with Model(convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")) as ours:
        ours.load_adapter(tmp_path / "a" / "a")
        ours.load_adapter(tmp_path / "b" / "b", scale=0.5)
        texts = prompts(rng, source.config.vocab_size)
        check("two adapters, PEFT's cat", ours, adapted, texts, {"a": 0.6, "b": 3.4})


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_real_models(tmp_path: Path, name: str) -> None:
    rng = fresh_rng()
    source = real_model(name)
    texts = prompts(rng, source.config.vocab_size)
    assert_every_part_shows(source, texts[-1])
    base = convert_model(real_folder(name), tmp_path / "base.gguf", type="f32")
    with Model(base) as ours:
        check(f"{name}, base", ours, source, texts)
        for i, kind in enumerate(ADAPTERS):
            source = real_model(name)
            alone = logits_of(source, texts[-1])
            adapted = random_adapter(source, tmp_path / str(i), **ADAPTERS[kind])
            assert np.abs(logits_of(adapted, texts[-1]) - alone).max() >= SHOWS
            ours.load_adapter(tmp_path / str(i), name=kind)
            ours.load_adapter(convert_adapter(tmp_path / str(i), base, tmp_path / f"{i}.gguf"), name=f"{kind}, GGUF")
            check(f"{name}, adapters", ours, adapted, texts, kind)
            check(f"{name}, adapters as GGUF", ours, adapted, texts, f"{kind}, GGUF")


@needs_shared
def test_greedy_ids(tmp_path: Path) -> None:
    rng = fresh_rng()
    name = "TinyStories-656K"
    adapted = trained_adapter(
        real_model(name), tmp_path / "trained", words_of(name, "tinyshakespeare_first_90.txt", 4096)
    )
    starts = ["Once upon a time", "Lily and Tom", "One day, a big dog", "The sun was"]
    with Model(convert_model(real_folder(name), tmp_path / "base.gguf", type="f32")) as ours:
        ours.load_adapter(tmp_path / "trained")
        for adapter in (None, "trained"):
            for ids in [*map(ours.tokenize, starts), *(random_ids(rng, 2048, 9) for _ in range(4))]:
                text = torch.tensor([ids])
                options = {"max_new_tokens": 120, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
                with torch.no_grad(), adapted.disable_adapter() if adapter is None else nullcontext():
                    out = adapted.generate(text, attention_mask=torch.ones_like(text), **options)
                wanted = out[0, len(ids) :].tolist()
                made = ours.complete(ids, adapter=adapter, max_tokens=120, ignore_eos=True).ids
                assert made == wanted
        base, other = (ours.complete(starts[0], adapter=a, max_tokens=40).ids for a in (None, "trained"))
        assert base != other
