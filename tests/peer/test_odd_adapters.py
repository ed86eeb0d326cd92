"""PEFT adapters with odd but legal configurations, on decoders of many kinds: PEFT's logits, or a refusal by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lora_edge.convert import convert_adapter, convert_model
from lora_edge.model import Model
from peer_models import fresh_rng, logits_of, random_adapter, random_model
from random_configs import drawn_model
from safetensors.torch import load_file, save_file

ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "modules by a pattern": ("Llama", {"target_modules": r".*layers\.\d+\.(self_attn\.(q|v)_proj|mlp\.down_proj)"}),
    "one layer by a pattern": ("Llama", {"target_modules": r"model\.layers\.0\..*_proj"}),
    "all linears": ("Qwen2", {"target_modules": "all-linear"}),
    "all linears of gpt2": ("GPT2LMHeadModel", {"target_modules": "all-linear", "fan_in_fan_out": True}),
    "gpt2, dora": ("GPT2LMHeadModel", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "use_dora": True}),
    "gpt2, modules named alike": ("GPT2LMHeadModel", {"target_modules": ["c_proj"], "fan_in_fan_out": True,
                                  "rank_pattern": {r"attn\.c_proj": 2}, "alpha_pattern": {r"mlp\.c_proj": 3}}),
    "phi3's fused linears": ("Phi3ForCausalLM", {"target_modules": "all-linear", "rank_pattern": {"qkv_proj": 7}}),
    "gemma3": ("Gemma3ForCausalLM", {"target_modules": "all-linear", "use_rslora": True}),
    "granite": ("GraniteForCausalLM", {"target_modules": "all-linear", "use_dora": True}),
    "stablelm": ("StableLmForCausalLM", {"target_modules": "all-linear", "lora_bias": True}),
    "layers by a pattern": ("Llama", {"layers_to_transform": [0], "layers_pattern": "layers"}),
    "layers as a number": ("Llama", {"layers_to_transform": 0, "layers_pattern": ["layers"]}),
    "modules left out by a pattern": ("Llama", {"exclude_modules": r".*\.(gate|up)_proj"}),
    "ranks by patterns": ("Qwen3", {"rank_pattern": {r"layers\.\d+\.self_attn\.(q|k)_proj": 3, r".*down_proj": 2,
                                                     r"self_attn\.[vo]_proj": 5}}),
    "rslora by patterns": ("Llama", {"use_rslora": True, "rank_pattern": {r".*mlp.*": 9, "q_proj": 1},
                                     "alpha_pattern": {r"layers\.0\..*": 2, "o_proj": 31}}),
    "the first pattern goes": ("Llama", {"alpha_pattern": {r"[a-z]+_proj": 3, "proj": 1, "q_proj": 2}}),
    "rslora and dora in a checkpoint of torch": ("Llama", {"use_rslora": True, "use_dora": True, "r": 3,
                                                           "safe_serialization": False}),
    "dora by patterns": ("Qwen2", {"use_dora": True, "use_rslora": True, "rank_pattern": {"(gate|up)_proj": 2},
                                   "alpha_pattern": {r"layers\.0\.mlp\.down_proj": 7}}),
    "an alpha of 0": ("Llama", {"alpha_pattern": {"q_proj": 1e-9}}),
    "both ends": ("Llama", {"target_modules": ["lm_head", "embed_tokens", "q_proj"], "use_rslora": True}),
    "both ends, one whole": ("Llama", {"target_modules": ["lm_head", "q_proj"], "modules_to_save": ["embed_tokens"]}),
}  # fmt: skip


def model_of(cls: str, rng: np.random.Generator, **changes: Any) -> Any:
    return drawn_model(cls, rng) if cls.endswith(("LM", "Model")) else random_model(cls, rng, **changes)


def check(ours: Model, name: str, wanted: Any, texts: list[list[int]]) -> None:
    for ids in texts:
        assert np.abs(ours.logits(ids, adapter=name) - logits_of(wanted, ids)).max() <= 1e-3, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ODD)
def test_odd_adapters(tmp_path: Path, kind: str, dtype: str) -> None:
    rng = fresh_rng()
    cls, fields = ODD[kind]
    source = model_of(cls, rng, tie_word_embeddings="ends" not in kind and bool(rng.integers(2)))
    source.save_pretrained(tmp_path / "base")
    texts = [[int(i) for i in rng.integers(0, 90, n)] for n in (1, 40)]
    alone = logits_of(source, texts[1])
    # saved under another name than "default", PEFT's folder is one deeper
    name = str(rng.choice(["default", "other"]))
    adapted = random_adapter(source, tmp_path / "adapter", name=name, **fields)
    folder = tmp_path / "adapter" / ("" if name == "default" else name)
    if dtype == "bfloat16":
        with torch.no_grad():
            for key, p in adapted.named_parameters():
                if p.requires_grad and "original" not in key:
                    p.copy_(p.to(torch.bfloat16))
        adapted.save_pretrained(str(tmp_path / "adapter"), selected_adapters=[name])
        stored = load_file(folder / "adapter_model.safetensors")
        half = {key: x.to(torch.bfloat16) for key, x in stored.items()}
        save_file(half, folder / "adapter_model.safetensors", {"format": "pt", "base": "x"})
        if "adapter_model.bin" in {p.name for p in folder.iterdir()}:
            (folder / "adapter_model.bin").unlink()
    assert kind == "an alpha of 0" or np.abs(logits_of(adapted, texts[1]) - alone).max() >= 0.02
    base = convert_model(tmp_path / "base", tmp_path / "base.gguf", type="f32")
    convert_adapter(folder, base, tmp_path / "file.gguf")
    convert_adapter(tmp_path / "file.gguf", base, tmp_path / "back", type=None)
    with Model(base, n_ctx=256) as ours:  # longrope's short factors
        for name, path in {"folder": folder, "file": tmp_path / "file.gguf", "back": tmp_path / "back"}.items():
            ours.load_adapter(path, name=name)
            check(ours, name, adapted, texts)
