"""Model folders as they lie about on the hub, odd but legal: the logits are those of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from lora_edge.convert import convert_model
from lora_edge.model import Model
from peer_models import LLAMA3, fresh_rng, logits_of, random_model
from random_configs import drawn_model
from safetensors.torch import load_file, save_file

Config = dict[str, Any]
Tensors = dict[str, torch.Tensor]
Change = Callable[[Config, Tensors], None]
OLD_ROPE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def fields(**values: Any) -> Change:
    """Sets fields of config.json; ... takes one away."""

    def change(config: Config, tensors: Tensors) -> None:
        config |= {name: value for name, value in values.items() if value is not ...}
        for name in [name for name, value in values.items() if value is ...]:
            config.pop(name, None)

    return change


def renamed(rule: Callable[[str], str], **more: Any) -> Change:
    def change(config: Config, tensors: Tensors) -> None:
        fields(**more)(config, tensors)
        for name in [*tensors]:
            tensors[rule(name)] = tensors.pop(name)

    return change


def stored_twice(config: Config, tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


def old_gpt2(config: Config, tensors: Tensors) -> None:
    """gpt2 itself: no prefix, the causal mask as a buffer, the context said twice."""
    renamed(lambda name: name.removeprefix("transformer."))(config, tensors)
    n = config["n_ctx"] = config["n_positions"]
    for i in range(config["n_layer"]):
        tensors[f"h.{i}.attn.bias"] = torch.tril(torch.ones(n, n)).view(1, 1, n, n)
        tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    config |= {"_num_labels": 1, "output_past": True, "summary_use_proj": True,
               "task_specific_params": {"text-generation": {"do_sample": True}}}  # fmt: skip


def rotary_buffers(config: Config, tensors: Tensors) -> None:
    for i in range(config["num_hidden_layers"]):
        tensors[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)


ODD: dict[str, tuple[str, dict[str, Any], Change]] = {
    "no architectures": ("Llama", {}, fields(architectures=...)),
    "fields of other programs": (
        "Llama", {}, fields(**{"transformers.js_config": {"dtype": "q4", "kv_cache_dtype": {"q4f16": "float16"}}},
                            pretraining_tp=2, is_llama_config=True, unsloth_fixed=True, neftune_noise_alpha=5,
                            max_sequence_length=2048, model_max_length=512, auto_map={"AutoConfig": "x.Y"})),
    "linear, old": ("Llama", {}, fields(
        rope_parameters=..., rope_theta=10000, rope_scaling={"type": "linear", "factor": 2.5})),
    "llama3, old": ("Llama", {}, fields(
        rope_parameters=..., rope_theta=5e5, rope_scaling={"type": "llama3", **OLD_ROPE})),
    "llama3, both spellings": (
        "Llama", {}, fields(rope_parameters=..., rope_theta=5e5,
                            rope_scaling={"type": "llama3", "rope_type": "llama3", **OLD_ROPE})),
    "llama3, new": ("Llama", {"rope_parameters": LLAMA3}, fields()),
    "theta outside": ("Llama", {}, fields(rope_parameters={"rope_type": "default"}, rope_theta=777.0)),
    "no theta": ("Llama", {}, fields(rope_parameters=...)),
    "null scaling": ("Llama", {}, fields(rope_parameters=..., rope_scaling=None, rope_theta=1e6)),
    "tied, stored twice": ("Llama", {"tie_word_embeddings": True}, stored_twice),
    "without the prefix": ("Qwen2", {"tie_word_embeddings": True}, renamed(lambda name: name.removeprefix("model."))),
    "old buffers": ("Llama", {}, rotary_buffers),
    "a window of null": ("Mistral", {"max_position_embeddings": 8192}, fields(sliding_window=None)),
    "the usual window": ("Mistral", {"sliding_window": 40}, fields(tokenizer_class="LlamaTokenizer")),
    "an absent window": ("Mistral", {"max_position_embeddings": 8192}, fields(sliding_window=...)),
    "windows that are off": ("Qwen2", {}, fields(use_sliding_window=False, sliding_window=20, max_window_layers=0,
                                                 layer_types=...)),
    "windows of null": ("Qwen2", {"max_position_embeddings": 8192}, fields(
        use_sliding_window=True, sliding_window=None, max_window_layers=0, layer_types=...)),
    "windows by number": ("Qwen3", {"num_hidden_layers": 3}, fields(
        use_sliding_window=True, sliding_window=20, max_window_layers=1, layer_types=...)),
    "integers for numbers": ("Llama", {}, fields(rope_parameters=..., rope_theta=500000, rms_norm_eps=0.01)),
    "null heads": ("Llama", {"num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 64},
                   fields(num_key_value_heads=None)),
    "null heads of qwen2": ("Qwen2", {"num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 64},
                            fields(num_key_value_heads=None)),
    "no head_dim": ("Llama", {"num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 64, "head_dim": 32},
                    fields(head_dim=...)),
    "null head_dim": ("Llama", {"num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 64, "head_dim": 32},
                      fields(head_dim=None)),
    "old gpt2": ("GPT2LMHeadModel", {}, old_gpt2),
    "old phi3": ("Phi3ForCausalLM", {}, fields(auto_map={"AutoConfig": "x.Y"}, full_attn_mod=1, interpolate_factor=1,
                                               lm_head_bias=False, mlp_bias=False)),
    "gemma3's old fields": ("Gemma3ForCausalLM", {}, fields(
        layer_types=..., sliding_window_pattern=2, rope_parameters=..., rope_theta=1e6, rope_local_base_freq=20000,
        rope_scaling={"rope_type": "linear", "factor": 8.0}, cache_implementation="hybrid")),
    "gemma3's private pattern": ("Gemma3ForCausalLM", {}, fields(layer_types=..., _sliding_window_pattern=3)),
    "gemma2's old fields": ("Gemma2ForCausalLM", {}, fields(
        layer_types=..., hidden_act="gelu_pytorch_tanh", rope_parameters=..., rope_theta=5000, rope_scaling=None,
        cache_implementation="hybrid")),
    "smollm3 as on the hub": ("SmolLM3ForCausalLM", {}, fields(
        pretraining_tp=2, no_rope_layer_interval=4, max_window_layers=28, sliding_window=None, mlp_bias=False,
        use_sliding_window=False)),
}  # fmt: skip


def make(folder: Path, cls: str, changes: dict[str, Any], change: Change, rng: np.random.Generator) -> None:
    model = drawn_model(cls, rng) if cls.endswith(("LM", "Model")) else random_model(cls, rng, **changes)
    model.save_pretrained(folder)
    config, path = json.loads((folder / "config.json").read_text()), folder / "model.safetensors"
    tensors = load_file(path)
    change(config, tensors)
    (folder / "config.json").write_text(json.dumps(config))
    path.unlink()
    if rng.integers(2):
        return save_file(tensors, path, {"format": "pt", "made by": "hand", "": "\u00e9"})
    names, n = sorted(tensors), int(rng.integers(2, 5))
    shards = [names[i::n] for i in range(n)]
    files = [f"model-{i + 1:05}-of-{n:05}.safetensors" for i in range(n)]
    for file, shard in zip(files, shards):
        save_file({name: tensors[name] for name in shard}, folder / file, {"format": "pt"})
    table = {name: file for file, shard in zip(files, shards) for name in shard}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1, "total_parameters": 2}, "weight_map": table})
    )


@pytest.mark.parametrize("kind", ODD)
def test_odd_folders(tmp_path: Path, kind: str) -> None:
    rng = fresh_rng()
    make(tmp_path / "hf", *ODD[kind], rng)
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    n_vocab, n_ctx = reference.config.vocab_size, reference.config.max_position_embeddings
    path = convert_model(tmp_path / "hf", tmp_path / "m.gguf", type="f32")
    with Model(path, n_ctx=256 if "phi3" in kind else n_ctx) as ours:  # longrope has its short factors there
        for n in (3, 120, *([4500] if n_ctx >= 8192 else [])):
            ids = [int(i) for i in rng.integers(0, n_vocab, n)]
            assert np.abs(ours.logits(ids, last=min(n, 64)) - logits_of(reference, ids)[-64:]).max() <= 1e-3
