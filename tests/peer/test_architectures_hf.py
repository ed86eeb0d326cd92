"""Every decoder architecture, drawn afresh by transformers: our GGUF in llama.cpp and in our runtime, and our export in
transformers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import SHARED, needs_shared
from llama_cpp_runs import GELU_BOUND, assert_same, exact_logits, give_tokenizer
from lora_edge.architectures import BY_CLASS, IGNORED, READ
from lora_edge.convert import convert_model, export_model
from lora_edge.model import Model
from peer_models import fresh_rng, logits_of, real_folder
from random_configs import DRAWS, N_VOCAB, drawn_model

GELU = {"Gemma2ForCausalLM", "Gemma3ForCausalLM", "GPT2LMHeadModel"}


@pytest.mark.parametrize("draw", range(4))
@pytest.mark.parametrize("cls", DRAWS)
def test_logits_in_llama_cpp(tmp_path: Path, cls: str, draw: int) -> None:
    rng = fresh_rng()
    model = drawn_model(cls, rng)
    model.save_pretrained(tmp_path)
    give_tokenizer(tmp_path)
    ids = [int(i) for i in rng.integers(3, N_VOCAB, 120)]
    wanted = logits_of(model, ids)
    assert wanted.std() > 0.3
    file = convert_model(tmp_path, tmp_path / "out.gguf", type="f32", name="drawn")
    # for a context beyond the old one llama.cpp takes the long factors from the first position on
    assert_same(exact_logits(file, ids, n_ctx=256), wanted, GELU_BOUND if cls in GELU else 1e-3)


@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("cls", DRAWS)
def test_logits_in_our_runtime(tmp_path: Path, cls: str, draw: int) -> None:
    rng = fresh_rng()
    model = drawn_model(cls, rng)
    model.save_pretrained(tmp_path)
    with Model(convert_model(tmp_path, tmp_path / "out.gguf", type="f32"), n_ctx=256) as ours:
        for n in (1, 40, 200):
            ids = [int(i) for i in rng.integers(3, N_VOCAB, n)]
            assert np.abs(ours.logits(ids) - logits_of(model, ids)).max() <= 1e-3


@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("cls", DRAWS)
def test_export_in_transformers(tmp_path: Path, cls: str, draw: int) -> None:
    """The original's logits, bit for bit; but gemma's norms are stored as 1 + w.  Back again it is the same file."""
    rng = fresh_rng()
    model = drawn_model(cls, rng)
    model.save_pretrained(tmp_path / "source")
    file = convert_model(tmp_path / "source", tmp_path / "model.gguf", type="f32")
    export_model(file, tmp_path / "back", max_shard=int(rng.choice([20_000, 5_000_000_000])))
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype="auto").eval()
    # without a window, Mistral is Llama
    assert type(back).__name__ in (cls, "LlamaForCausalLM" if cls == "MistralForCausalLM" else cls)
    assert back.dtype == torch.float32
    # GGUF's one GELU is transformers' "gelu_new", which "gelu_pytorch_tanh" equals up to rounding
    rounded = cls.startswith("Gemma") or getattr(model.config, "activation_function", "") == "gelu_pytorch_tanh"
    for n in (120, 400):
        ids = [int(i) for i in rng.integers(3, N_VOCAB, n)]
        made, wanted = logits_of(back, ids), logits_of(model, ids)
        if rounded:
            assert np.abs(made - wanted).max() <= (1e-5 if cls.startswith("Gemma") else 1e-4)
        else:
            assert np.array_equal(made, wanted)
    again = convert_model(tmp_path / "back", tmp_path / "again.gguf", type="f32", name="source")
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("cls", DRAWS)
def test_every_field_of_the_configuration_is_known(cls: str) -> None:
    """A new one fails here; defaults are transformers' own."""
    row = BY_CLASS[cls]
    config = type(transformers.AutoConfig.for_model(row.model_type))
    fields = {field.name: field for field in dataclasses.fields(config)}
    known = {setting.name for setting in row.settings} | {*row.fixed, *row.flags} | READ | IGNORED | row.ignored
    assert {name for name in fields if not name.startswith("_")} <= known
    for name, value in row.defaults.items():
        if name in fields:
            assert fields[name].default == value, name
    for setting in row.settings:
        default = fields[setting.name].default if setting.name in fields else None
        assert default is None or row.defaults.get(setting.name, False) == default, setting.name
    assert row.defaults.get("tie_word_embeddings", False) == fields["tie_word_embeddings"].default
    for name, allowed in row.fixed.items():
        assert name not in fields or fields[name].default in allowed, name
    for name, value in row.flags.items():
        assert fields[name].default == value, name


@needs_shared
@pytest.mark.parametrize("name", ["TinyStories-656K", "stories260K"])
def test_text_of_real_models(tmp_path: Path, name: str) -> None:
    """Our conversion, and the export of it and of llama.cpp's own file, write what the original writes."""
    source, start = real_folder(name), "Once upon a time"
    converted = convert_model(source, tmp_path / "model.gguf", type="f32")
    folders = [source, export_model(converted, tmp_path / "ours"),
               export_model(SHARED / "gguf" / f"{name}-f32.gguf", tmp_path / "theirs")]  # fmt: skip
    texts = []
    for folder in folders:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        ids = tokenizer(start, return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=100, do_sample=False)
        texts.append(tokenizer.decode(out[0], skip_special_tokens=True))
    with Model(converted) as ours:
        texts.append(start + ours.complete(start, max_tokens=100).text)
    assert len(texts[0]) > 200 and [text.strip() for text in texts] == [texts[0].strip()] * 4
