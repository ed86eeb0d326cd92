"""`verify` against the programs it stands in for: transformers with PEFT, and llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from conftest import SHARED, needs_shared
from llama_cpp_runs import N_VOCAB
from lora_edge.compare import verify
from lora_edge.convert import convert_adapter, convert_model
from peer_models import ADAPTERS, VARIANTS, fresh_rng, random_adapter, random_model, real_folder


@pytest.mark.parametrize("variant", ["llama with attention bias", "qwen2", "qwen3"])
def test_a_conversion_and_its_folder(variant: str, tmp_path: Path) -> None:
    """With an adapter of each layout; then with one weight of the folder changed, which is found."""
    rng = fresh_rng()
    cls, changes = VARIANTS[variant]
    model = random_model(cls, rng, num_hidden_layers=3, tie_word_embeddings=False, **changes)
    model.save_pretrained(tmp_path / "hf")
    gguf = convert_model(tmp_path / "hf", tmp_path / "m.gguf", type="f32")
    random_adapter(model, tmp_path / "lora", **ADAPTERS["per-module rank, rslora"])
    assert verify(gguf, tmp_path / "hf").ok
    lora = tmp_path / "lora"
    report = verify(gguf, tmp_path / "hf", adapters=[(lora, 0.7)])
    assert report.ok and report.type == "f32" and report.ids_equal is None, report.verdict
    assert not verify(gguf, tmp_path / "hf", adapters=[(lora, 0.7)], merged=True).ok
    small = convert_model(tmp_path / "hf", tmp_path / "h.gguf", type="f16")
    assert verify(small, tmp_path / "hf").type == "f16"

    fresh = type(model).from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        fresh.model.layers[1].mlp.up_proj.weight.mul_(1.5)
    fresh.save_pretrained(tmp_path / "hf")
    found = verify(gguf, tmp_path / "hf")
    assert not found.ok and found.divergence is not None
    assert (found.divergence.tensor, found.divergence.before) == ("blk.1.ffn_down.weight", "blk.1.ffn_up.weight")
    found = verify(gguf, tmp_path / "hf", adapters=[(lora, 0.7)])
    assert found.divergence is not None and found.divergence.tensor == "blk.1.ffn_down.weight"


def test_a_model_that_was_extended(tmp_path: Path) -> None:
    """LongRoPE's short factors are those of the texts that are compared, whatever context the model was extended to."""
    rng = fresh_rng()
    half = 8
    factors = {name: rng.uniform(1, most, half).round(3).tolist() for name, most in (("short", 1.5), ("long", 30))}
    config = transformers.Phi3Config(
        vocab_size=N_VOCAB, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
        num_hidden_layers=2, max_position_embeddings=8192, original_max_position_embeddings=1024, pad_token_id=0,
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 1.0,
                         "short_factor": factors["short"], "long_factor": factors["long"]},
    )  # fmt: skip
    model = transformers.Phi3ForCausalLM(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3)
    model.save_pretrained(tmp_path / "hf")
    gguf = convert_model(tmp_path / "hf", tmp_path / "m.gguf", type="f32")
    report = verify(gguf, tmp_path / "hf")
    assert report.ok, report.verdict


@needs_shared
@pytest.mark.parametrize("type", ["f32", "f16", "q8_0"])
def test_real_files(type: str) -> None:
    file = SHARED / "gguf" / f"stories260K-{type}.gguf"
    report = verify(file, real_folder("stories260K"))
    assert report.ok and report.ids_equal and report.type == type, report.verdict


@needs_shared
@pytest.mark.parametrize("type", ["f32", "f16", "q8_0"])
def test_llama_cpp(type: str, tmp_path: Path) -> None:
    fresh_rng()
    file = SHARED / "gguf" / f"stories260K-{type}.gguf"
    from peer_models import real_model

    random_adapter(real_model("stories260K"), tmp_path / "lora")
    for adapters in ([], [(tmp_path / "lora", 0.5)]):
        report = verify(file, "llama.cpp", adapters=adapters, tokens=300)
        assert report.ok and report.ids_equal and report.type == type, report.verdict
    lora = convert_adapter(tmp_path / "lora", file, tmp_path / "lora.gguf", type="f32")
    assert verify(file, "llama.cpp", adapters=[(lora, 0.5)], tokens=300).distance == report.distance
    with pytest.raises(ValueError, match="one adapter"):
        verify(file, "llama.cpp", adapters=[(lora, 0.5), (tmp_path / "lora", 1.0)])


@needs_shared
def test_what_llama_cpp_dies_of_is_an_error() -> None:
    """Its tokenizer ends the process over characters that a vocabulary without bytes lacks."""
    with pytest.raises(ValueError, match=r"llama\.cpp ended on 'text': signal"):
        verify(SHARED / "gguf" / "TinyStories-656K-f32.gguf", "llama.cpp")
