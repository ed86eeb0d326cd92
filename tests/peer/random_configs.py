"""Freshly drawn configurations of every decoder architecture, with every setting that conversion has to carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from llama_cpp_runs import N_VOCAB
from lora_edge.architectures import BY_CLASS
from peer_models import LLAMA3

N_CTX = 512

Draw = Callable[[np.random.Generator], dict[str, Any]]


def pick(rng: np.random.Generator, *choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def rope(rng: np.random.Generator, *more: dict[str, Any]) -> dict[str, Any]:
    theta = pick(rng, 1e4, 5e5, 123456.0)
    plain = {"rope_type": "default", "rope_theta": theta}
    return pick(rng, plain, {"rope_type": "linear", "rope_theta": theta, "factor": pick(rng, 2.0, 3.5)}, *more)


def common(rng: np.random.Generator, *, square: bool = False, multi_head: bool = False) -> dict[str, Any]:
    """Sizes that most classes share: 1 to 4 heads per KV head, an ffn that is no multiple of 32, tied or not."""
    n_kv = int(rng.integers(1, 4))
    n_head = n_kv * int(rng.integers(1, 4))
    head_dim = 4 * int(rng.integers(4, 9))
    sizes = {
        "vocab_size": N_VOCAB, "num_hidden_layers": int(rng.integers(2, 5)), "num_attention_heads": n_head,
        "num_key_value_heads": n_head if multi_head else n_kv,
        "hidden_size": n_head * (head_dim if square else head_dim + pick(rng, -4, 4, 8)),
        "intermediate_size": 32 * int(rng.integers(1, 4)) + 4 * int(rng.integers(1, 8)),
        "max_position_embeddings": N_CTX, "rms_norm_eps": pick(rng, 1e-6, 1e-5),
        "tie_word_embeddings": bool(rng.integers(2)), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    return sizes if square else {**sizes, "head_dim": head_dim}


def gemma(rng: np.random.Generator) -> dict[str, Any]:
    sizes = common(rng)
    period = pick(rng, None, None, 2, 3)
    n = sizes["num_hidden_layers"] = 7
    types = (
        None if period is None else ["sliding_attention" if (i + 1) % period else "full_attention" for i in range(n)]
    )
    return {**sizes, "query_pre_attn_scalar": sizes["head_dim"], "sliding_window": pick(rng, 16, 48),
            "layer_types": types}  # fmt: skip


def gemma2(rng: np.random.Generator) -> dict[str, Any]:
    caps = {"attn_logit_softcapping": pick(rng, 5.0, 50.0), "final_logit_softcapping": pick(rng, 3.0, 30.0)}
    return {**gemma(rng), **caps, "tie_word_embeddings": True, "rope_parameters": rope(rng)}


def gemma3(rng: np.random.Generator) -> dict[str, Any]:
    full = pick(
        rng, {"rope_type": "default", "rope_theta": 1e6}, {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    )
    local = {"rope_type": "default", "rope_theta": pick(rng, 1e4, 3e4)}
    return {**gemma(rng), "rope_parameters": {"full_attention": full, "sliding_attention": local}}


def phi3(rng: np.random.Generator) -> dict[str, Any]:
    sizes = common(rng, square=True)
    head_dim = sizes["hidden_size"] // sizes["num_attention_heads"]
    share = pick(rng, 1.0, 0.5)
    half = int(head_dim * share) // 2
    scaled = {"rope_type": "longrope", "short_factor": rng.uniform(1, 1.5, half).round(3).tolist(),
              "long_factor": rng.uniform(1, 30, half).round(3).tolist()}  # fmt: skip
    factors = pick(rng, {"rope_type": "default"}, scaled)
    window = pick(rng, None, 300)
    return {**sizes, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": share, **factors},
            "sliding_window": window,
            # prompts stay below the old context, where both sides take the short factors
            "original_max_position_embeddings": 256 if "short_factor" in factors else N_CTX}  # fmt: skip


def gpt2(rng: np.random.Generator) -> dict[str, Any]:
    n_head = int(rng.integers(1, 6))
    d = n_head * 4 * int(rng.integers(4, 9))
    return {"vocab_size": N_VOCAB, "n_positions": N_CTX, "n_embd": d, "n_head": n_head,
            "n_layer": int(rng.integers(2, 5)), "activation_function": pick(rng, "gelu_new", "gelu_pytorch_tanh"),
            "n_inner": pick(rng, None, 2 * d + 4), "tie_word_embeddings": pick(rng, True, True, False),
            "layer_norm_epsilon": pick(rng, 1e-5, 1e-6), "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip


def stablelm(rng: np.random.Generator) -> dict[str, Any]:
    sizes = {k: v for k, v in common(rng, square=True).items() if k != "rms_norm_eps"}
    sizes["hidden_size"] = sizes["num_attention_heads"] * 8 * int(rng.integers(2, 5))  # whose quarter is even
    share = {"partial_rotary_factor": pick(rng, 0.25, 0.5, 1.0)}
    return {**sizes, "layer_norm_eps": pick(rng, 1e-5, 1e-6), "use_qkv_bias": bool(rng.integers(2)),
            "use_parallel_residual": bool(rng.integers(2)), "qk_layernorm": bool(rng.integers(2)),
            "rope_parameters": {**rope(rng), **share}, **share}  # fmt: skip


def granite(rng: np.random.Generator) -> dict[str, Any]:
    scales = {"embedding_multiplier": pick(rng, 1.0, 3.0), "residual_multiplier": pick(rng, 1.0, 0.25),
              "attention_multiplier": pick(rng, 0.25, 0.03125), "logits_scaling": pick(rng, 1.0, 4.0)}  # fmt: skip
    return {**common(rng), **scales, "rope_parameters": rope(rng, LLAMA3), "attention_bias": bool(rng.integers(2))}


DRAWS: dict[str, Draw] = {
    "LlamaForCausalLM": lambda rng: {
        **common(rng), "rope_parameters": rope(rng, LLAMA3), "attention_bias": bool(rng.integers(2))},
    "MistralForCausalLM": lambda rng: {
        **common(rng), "rope_parameters": rope(rng), "sliding_window": pick(rng, None, 4096)},
    "Qwen2ForCausalLM": lambda rng: {**common(rng, square=True), "rope_parameters": rope(rng)},
    "Qwen3ForCausalLM": lambda rng: {**common(rng), "rope_parameters": rope(rng)},
    "SmolLM3ForCausalLM": lambda rng: {
        **common(rng), "num_hidden_layers": 5, "rope_parameters": rope(rng)},
    "Gemma2ForCausalLM": gemma2,
    "Gemma3ForCausalLM": gemma3,
    "Phi3ForCausalLM": phi3,
    "GPT2LMHeadModel": gpt2,
    "Olmo2ForCausalLM": lambda rng: {**common(rng, square=True), "rope_parameters": rope(rng)},
    "GraniteForCausalLM": granite,
    "StableLmForCausalLM": stablelm,
}  # fmt: skip


def drawn_model(cls: str, rng: np.random.Generator) -> Any:
    """A float32 model of `cls` with random weights, whose every part shows in the logits."""
    fields = DRAWS[cls](rng)
    print({"class": cls, **fields})
    config = transformers.AutoConfig.for_model(BY_CLASS[cls].model_type, **fields)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    assert type(model).__name__ == cls
    is_gemma = cls.startswith("Gemma")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1 and name.endswith("weight"):
                p.uniform_(0.4, 1.6).sub_(1.0 if is_gemma else 0.0)
            elif p.ndim == 1:
                p.normal_(0, 0.5)
            elif any(part in name for part in ("embed", "wte", "wpe", "lm_head")):
                p.normal_(0, p.shape[1] ** -0.5 if is_gemma else 1.0)
            else:
                p.normal_(0, 1.2 / p.shape["Conv1D" not in type(model.get_submodule(name[:-7])).__name__] ** 0.5)
    return model
