"""A tiny Hugging Face folder of every decoder architecture, with random weights.  Names and shapes are spelt out here,
as transformers saves them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hf_folders import Tensors, random_array

D, F, N_VOCAB, N_CTX, N_HEAD, N_KV, HEAD, N_LAYER = 64, 40, 50, 96, 4, 2, 16, 4
Q, KV = N_HEAD * HEAD, N_KV * HEAD

_SIZES = {
    "hidden_size": D, "intermediate_size": F, "num_hidden_layers": N_LAYER, "num_attention_heads": N_HEAD,
    "num_key_value_heads": N_KV, "vocab_size": N_VOCAB, "max_position_embeddings": N_CTX, "rms_norm_eps": 1e-5,
    "torch_dtype": "float32", "rope_theta": 50000.0, "tie_word_embeddings": False,
}  # fmt: skip
_GEMMA = {"head_dim": HEAD, "query_pre_attn_scalar": HEAD, "sliding_window": 32, "tie_word_embeddings": True}

CONFIGS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {**_SIZES, "head_dim": HEAD, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}},
    "MistralForCausalLM": {**_SIZES, "head_dim": HEAD, "sliding_window": 24},
    "Qwen2ForCausalLM": {**_SIZES, "head_dim": HEAD, "use_sliding_window": True, "sliding_window": 20,
                         "max_window_layers": 2},
    "Qwen3ForCausalLM": {**_SIZES, "head_dim": HEAD, "tie_word_embeddings": True},
    "SmolLM3ForCausalLM": {**_SIZES, "no_rope_layers": [1, 1, 1, 0], "tie_word_embeddings": True},
    "Gemma2ForCausalLM": {**_SIZES, **_GEMMA},
    "Gemma3ForCausalLM": {**_SIZES, **_GEMMA, "sliding_window_pattern": 3, "rope_local_base_freq": 20000.0,
                          "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "Phi3ForCausalLM": {**_SIZES, "original_max_position_embeddings": 64, "partial_rotary_factor": 0.5,
                        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3],
                                         "long_factor": [2.0, 4.0, 8.0, 16.5]}},
    "GPT2LMHeadModel": {"n_embd": D, "n_layer": N_LAYER, "n_head": N_HEAD, "n_positions": N_CTX, "n_inner": F,
                        "vocab_size": N_VOCAB},
    "Olmo2ForCausalLM": _SIZES,
    "GraniteForCausalLM": {**_SIZES, "attention_bias": True, "embedding_multiplier": 12.0,
                           "residual_multiplier": 0.22, "attention_multiplier": 0.015625, "logits_scaling": 8.0},
    "StableLmForCausalLM": {**{k: v for k, v in _SIZES.items() if k != "rms_norm_eps"}, "layer_norm_eps": 1e-5,
                            "use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True},
}  # fmt: skip


def config_of(cls: str, **changes: Any) -> dict[str, Any]:
    return {"architectures": [cls], **CONFIGS[cls], **changes}


def tensors_of(cls: str, rng: np.random.Generator, dtype: str = "float32") -> Tensors:
    layers = {f"model.layers.{i}.{name}": shape for i in range(N_LAYER) for name, shape in _layer(cls).items()}
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (N_VOCAB, D),
        **layers,
        "model.norm.weight": (D,),
    }
    if cls == "GPT2LMHeadModel":
        shapes = {
            "transformer.wte.weight": (N_VOCAB, D), "transformer.wpe.weight": (N_CTX, D),
            **{f"transformer.h.{i}.{name}": shape for i in range(N_LAYER) for name, shape in _gpt2_layer().items()},
            "transformer.ln_f.weight": (D,), "transformer.ln_f.bias": (D,),
        }  # fmt: skip
    elif not CONFIGS[cls]["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (N_VOCAB, D)
    if cls == "StableLmForCausalLM":
        shapes["model.norm.bias"] = (D,)
    return {name: random_array(rng, shape, dtype) for name, shape in shapes.items()}


def _layer(cls: str) -> dict[str, tuple[int, ...]]:
    attention: dict[str, tuple[int, ...]] = {
        "q_proj.weight": (Q, D), "k_proj.weight": (KV, D), "v_proj.weight": (KV, D), "o_proj.weight": (D, Q),
    }  # fmt: skip
    mlp: dict[str, tuple[int, ...]] = {"gate_proj.weight": (F, D), "up_proj.weight": (F, D), "down_proj.weight": (D, F)}
    norms = ["input_layernorm", "post_attention_layernorm"]
    if cls in ("Qwen2ForCausalLM", "GraniteForCausalLM", "StableLmForCausalLM"):
        attention |= {"q_proj.bias": (Q,), "k_proj.bias": (KV,), "v_proj.bias": (KV,)}
    if cls == "GraniteForCausalLM":
        attention["o_proj.bias"] = (D,)
    if cls in ("Qwen3ForCausalLM", "Gemma3ForCausalLM"):
        attention |= {"q_norm.weight": (HEAD,), "k_norm.weight": (HEAD,)}
    if cls == "Olmo2ForCausalLM":
        attention |= {"q_norm.weight": (Q,), "k_norm.weight": (KV,)}
        norms = ["post_attention_layernorm", "post_feedforward_layernorm"]
    if cls.startswith("Gemma"):
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    if cls == "Phi3ForCausalLM":
        attention = {"qkv_proj.weight": (Q + 2 * KV, D), "o_proj.weight": (D, Q)}
        mlp = {"gate_up_proj.weight": (2 * F, D), "down_proj.weight": (D, F)}
    outer: dict[str, tuple[int, ...]] = {f"{name}.weight": (D,) for name in norms}
    if cls == "StableLmForCausalLM":
        attention |= {f"q_layernorm.norms.{i}.weight": (HEAD,) for i in range(N_HEAD)}
        attention |= {f"k_layernorm.norms.{i}.weight": (HEAD,) for i in range(N_KV)}
        outer = {"input_layernorm.weight": (D,), "input_layernorm.bias": (D,)}
    return {**{f"self_attn.{n}": s for n, s in attention.items()}, **{f"mlp.{n}": s for n, s in mlp.items()}, **outer}


def _gpt2_layer() -> dict[str, tuple[int, ...]]:
    linears = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, F), "mlp.c_proj": (F, D)}
    shapes: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (D,),
        "ln_1.bias": (D,),
        "ln_2.weight": (D,),
        "ln_2.bias": (D,),
    }
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[1:]}
    return shapes
