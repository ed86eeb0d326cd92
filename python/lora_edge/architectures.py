"""The decoder architectures as tables: what transformers calls a setting, a module or a class, and what GGUF calls it.

Both directions read the same rows: conversion from left to right, export from right to left.  Names are llama.cpp's
(gguf-py's constants and tensor map) and transformers'; defaults are those of transformers' configuration classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Value = int | float | bool


class Setting(NamedTuple):
    """`name` in config.json is `key`, after the architecture's name, in GGUF.  kind: "count" is a whole number above 0,
    "number" a finite one of at least 0, "flag" true or false."""

    name: str
    key: str
    kind: str = "count"


class Weight(NamedTuple):
    """Module `module` of transformers is tensor `stem` of GGUF.

    shape: of the GGUF tensor, in the sizes of `HParams.sizes`.  change: what happens to it on the way (`changes.py`).
    bias: "" for none, "yes", or the field of config.json that tells.  needs: the flag without which there is no such
    module; "!flag" for the opposite.
    """

    module: str
    stem: str
    shape: tuple[str, ...]
    change: str = ""
    bias: str = ""
    needs: str = ""


@dataclass(frozen=True)
class Architecture:
    """One class of models.

    flags: fields of config.json that say which tensors there are, with their defaults.  fixed: fields that must have
    one of these values (the first where absent), because GGUF has no word for others.  ignored: fields of this class
    without influence on the results.  window: how sliding windows are configured: "" not at all, "all" layers, "qwen"
    (use_sliding_window, max_window_layers, layer_types), "pattern" (layer_types, by default every `period`-th layer
    full).  square: llama.cpp knows only heads that are n_embd / n_head wide.  own_output: llama.cpp wants
    output.weight even where it is tied; no_output: it has none.
    """

    gguf: str
    hf_class: str
    model_type: str
    settings: tuple[Setting, ...]
    defaults: Mapping[str, Any]
    outer: tuple[Weight, ...]
    layer: tuple[Weight, ...]
    flags: Mapping[str, bool] = field(default_factory=dict)
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    ropes: tuple[str, ...] = ("default", "linear")
    partial_rotary: bool = False
    window: str = ""
    period: int = 0
    prefix: str = "model"
    layers: str = "layers"
    square: bool = False
    own_output: bool = False
    no_output: bool = False


_SIZES = (
    Setting("vocab_size", "vocab_size"),
    Setting("max_position_embeddings", "context_length"),
    Setting("hidden_size", "embedding_length"),
    Setting("num_hidden_layers", "block_count"),
    Setting("intermediate_size", "feed_forward_length"),
    Setting("num_attention_heads", "attention.head_count"),
    Setting("num_key_value_heads", "attention.head_count_kv"),
)
_HEAD_DIM = Setting("head_dim", "attention.key_length")
_RMS = Setting("rms_norm_eps", "attention.layer_norm_rms_epsilon", "number")
_SETTINGS = (*_SIZES, _HEAD_DIM, _RMS)

_OUTER = (
    Weight("embed_tokens", "token_embd", ("vocab", "embd")),
    Weight("norm", "output_norm", ("embd",)),
    Weight("lm_head", "output", ("vocab", "embd")),
)


def _attention(bias: str = "", output_bias: str = "", change: str = "") -> tuple[Weight, ...]:
    return (
        Weight("self_attn.q_proj", "attn_q", ("q", "embd"), change, bias),
        Weight("self_attn.k_proj", "attn_k", ("kv", "embd"), change, bias),
        Weight("self_attn.v_proj", "attn_v", ("kv", "embd"), "", bias),
        Weight("self_attn.o_proj", "attn_output", ("embd", "q"), "", output_bias),
    )


_GATED = (
    Weight("mlp.gate_proj", "ffn_gate", ("ff", "embd")),
    Weight("mlp.up_proj", "ffn_up", ("ff", "embd")),
    Weight("mlp.down_proj", "ffn_down", ("embd", "ff")),
)
_PRE_NORMS = (
    Weight("input_layernorm", "attn_norm", ("embd",)),
    Weight("post_attention_layernorm", "ffn_norm", ("embd",)),
)
_QK_NORMS = (
    Weight("self_attn.q_norm", "attn_q_norm", ("head",)),
    Weight("self_attn.k_norm", "attn_k_norm", ("head",)),
)
_POST_NORMS = (
    Weight("post_attention_layernorm", "post_attention_norm", ("embd",)),
    Weight("post_feedforward_layernorm", "post_ffw_norm", ("embd",)),
)


def _plus_one(*weights: Weight) -> tuple[Weight, ...]:
    return tuple(weight._replace(change="plus_one") for weight in weights)


_GEMMA_NORMS = _plus_one(
    Weight("input_layernorm", "attn_norm", ("embd",)),
    Weight("pre_feedforward_layernorm", "ffn_norm", ("embd",)),
    *_POST_NORMS,
)
_GEMMA_OUTER = (_OUTER[0], *_plus_one(_OUTER[1]), _OUTER[2])
_GEMMA_FIXED = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
    "use_bidirectional_attention": (None, False),
}
_SILU = {"hidden_act": ("silu", "swish")}


def _norms_with_bias(*weights: Weight) -> tuple[Weight, ...]:
    return tuple(weight._replace(bias="yes") for weight in weights)


TABLE = (
    Architecture(
        "llama", "LlamaForCausalLM", "llama", _SETTINGS,
        {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
         "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
        _OUTER, (*_PRE_NORMS, *_attention("attention_bias", "attention_bias", "permute"), *_GATED),
        flags={"attention_bias": False}, fixed={**_SILU, "mlp_bias": (False,)},
        ignored=frozenset({"pretraining_tp"}), ropes=("default", "linear", "llama3"),
    ),
    Architecture(
        "llama", "MistralForCausalLM", "mistral", _SETTINGS,
        {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
         "rms_norm_eps": 1e-6, "sliding_window": 4096},
        _OUTER, (*_PRE_NORMS, *_attention(change="permute"), *_GATED), fixed=_SILU,
        ropes=("default", "linear", "llama3"), window="all",
    ),
    Architecture(
        "qwen2", "Qwen2ForCausalLM", "qwen2", _SETTINGS,
        {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768,
         "rms_norm_eps": 1e-6, "sliding_window": 4096, "max_window_layers": 28},
        _OUTER, (*_PRE_NORMS, *_attention("yes"), *_GATED), fixed=_SILU, window="qwen",
    ),
    Architecture(
        "qwen3", "Qwen3ForCausalLM", "qwen3", _SETTINGS,
        {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768,
         "rms_norm_eps": 1e-6, "sliding_window": 4096, "max_window_layers": 28},
        _OUTER, (*_PRE_NORMS, *_attention(), *_QK_NORMS, *_GATED), fixed={**_SILU, "attention_bias": (False,)},
        window="qwen",
    ),
    Architecture(
        "smollm3", "SmolLM3ForCausalLM", "smollm3", _SETTINGS,
        {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
         "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 32768,
         "rms_norm_eps": 1e-6, "tie_word_embeddings": True},
        _OUTER, (*_PRE_NORMS, *_attention(change="permute"), *_GATED),
        # layers 3, 7, 11 ... have no rotary embedding; llama.cpp knows only this step
        fixed={**_SILU, "mlp_bias": (False,), "attention_bias": (False,), "no_rope_layer_interval": (4,),
               "use_sliding_window": (False,)},
        ignored=frozenset({"sliding_window", "max_window_layers"}),
    ),
    Architecture(
        "gemma2", "Gemma2ForCausalLM", "gemma2",
        (*_SETTINGS, Setting("attn_logit_softcapping", "attn_logit_softcapping", "number"),
         Setting("final_logit_softcapping", "final_logit_softcapping", "number")),
        {"vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
         "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192,
         "rms_norm_eps": 1e-6, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
         "query_pre_attn_scalar": 256, "sliding_window": 4096, "tie_word_embeddings": True},
        _GEMMA_OUTER, (*_GEMMA_NORMS, *_attention(), *_GATED), fixed=_GEMMA_FIXED,
        ignored=frozenset({"hidden_act"}), window="pattern", period=2, no_output=True,
    ),
    Architecture(
        "gemma3", "Gemma3ForCausalLM", "gemma3_text", _SETTINGS,
        {"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
         "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
         "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "sliding_window": 4096, "rope_theta": 1_000_000.0,
         "rope_local_base_freq": 10_000.0, "tie_word_embeddings": True},
        _GEMMA_OUTER, (*_GEMMA_NORMS, *_attention(), *_plus_one(*_QK_NORMS), *_GATED),
        fixed={**_GEMMA_FIXED, "attn_logit_softcapping": (None,), "final_logit_softcapping": (None,)},
        ignored=frozenset({"hidden_act"}), window="pattern", period=6,
    ),
    Architecture(
        "phi3", "Phi3ForCausalLM", "phi3", (*_SIZES, _RMS),
        {"vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
         "num_attention_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
         "original_max_position_embeddings": 4096},
        _OUTER,
        (*_PRE_NORMS, Weight("self_attn.qkv_proj", "attn_qkv", ("qkv", "embd")), _attention()[3],
         Weight("mlp.gate_up_proj", "ffn_up", ("2ff", "embd")), _GATED[2]),
        fixed={**_SILU, "attention_bias": (False,)},
        ignored=frozenset({"resid_pdrop", "embd_pdrop", "full_attn_mod", "interpolate_factor"}),
        ropes=("default", "longrope"), partial_rotary=True, window="all", square=True,
    ),
    Architecture(
        "gpt2", "GPT2LMHeadModel", "gpt2",
        (Setting("vocab_size", "vocab_size"), Setting("n_positions", "context_length"),
         Setting("n_embd", "embedding_length"), Setting("n_layer", "block_count"),
         Setting("n_inner", "feed_forward_length"), Setting("n_head", "attention.head_count"),
         Setting("layer_norm_epsilon", "attention.layer_norm_epsilon", "number")),
        {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12,
         "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
        (Weight("wte", "token_embd", ("vocab", "embd")), Weight("wpe", "position_embd", ("ctx", "embd")),
         *_norms_with_bias(Weight("ln_f", "output_norm", ("embd",))), _OUTER[2]),
        (*_norms_with_bias(Weight("ln_1", "attn_norm", ("embd",)), Weight("ln_2", "ffn_norm", ("embd",))),
         Weight("attn.c_attn", "attn_qkv", ("qkv", "embd"), "transpose", "yes"),
         Weight("attn.c_proj", "attn_output", ("embd", "q"), "transpose", "yes"),
         Weight("mlp.c_fc", "ffn_up", ("ff", "embd"), "transpose", "yes"),
         Weight("mlp.c_proj", "ffn_down", ("embd", "ff"), "transpose", "yes")),
        fixed={"activation_function": ("gelu_new", "gelu_pytorch_tanh"), "scale_attn_weights": (True,),
               "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,)},
        ignored=frozenset({
            "resid_pdrop", "embd_pdrop", "attn_pdrop", "reorder_and_upcast_attn", "n_ctx", "summary_type",
            "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"}),
        ropes=(), prefix="transformer", layers="h", square=True,
    ),
    Architecture(
        "olmo2", "Olmo2ForCausalLM", "olmo2", (*_SIZES, _RMS),
        {"vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
         "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
        _OUTER,
        (*_POST_NORMS, *_attention(), Weight("self_attn.q_norm", "attn_q_norm", ("q",)),
         Weight("self_attn.k_norm", "attn_k_norm", ("kv",)), *_GATED),
        fixed={**_SILU, "attention_bias": (False,)}, square=True, own_output=True,
    ),
    Architecture(
        "granite", "GraniteForCausalLM", "granite",
        (*_SETTINGS, Setting("embedding_multiplier", "embedding_scale", "scale"),
         Setting("residual_multiplier", "residual_scale", "scale"),
         Setting("attention_multiplier", "attention.scale", "scale"),
         Setting("logits_scaling", "logit_scale", "scale")),
        {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
         "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
         "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0, "logits_scaling": 1.0},
        _OUTER, (*_PRE_NORMS, *_attention("attention_bias", "attention_bias", "permute"), *_GATED),
        flags={"attention_bias": False}, fixed={**_SILU, "mlp_bias": (False,)},
        ropes=("default", "linear", "llama3"),
    ),
    Architecture(
        "stablelm", "StableLmForCausalLM", "stablelm",
        (*_SIZES, Setting("layer_norm_eps", "attention.layer_norm_epsilon", "number"),
         Setting("use_parallel_residual", "use_parallel_residual", "flag")),
        {"vocab_size": 50304, "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
         "layer_norm_eps": 1e-5, "use_parallel_residual": False, "partial_rotary_factor": 0.25},
        (_OUTER[0], *_norms_with_bias(_OUTER[1]), _OUTER[2]),
        (*_norms_with_bias(_PRE_NORMS[0], _PRE_NORMS[1]._replace(needs="!use_parallel_residual")),
         *_attention("use_qkv_bias"),
         Weight("self_attn.q_layernorm", "attn_q_norm", ("n_head", "head"), "stack", needs="qk_layernorm"),
         Weight("self_attn.k_layernorm", "attn_k_norm", ("n_head_kv", "head"), "stack", needs="qk_layernorm"),
         *_GATED),
        flags={"use_qkv_bias": False, "use_parallel_residual": False, "qk_layernorm": False}, fixed=_SILU,
        ignored=frozenset({"hidden_dropout"}), partial_rotary=True, square=True, own_output=True,
    ),
)  # fmt: skip

BY_CLASS = {architecture.hf_class: architecture for architecture in TABLE}
BY_MODEL_TYPE = {architecture.model_type: architecture for architecture in TABLE}

_READ_WORDS = """
rope_theta rope_scaling rope_parameters partial_rotary_factor rope_local_base_freq tie_word_embeddings
original_max_position_embeddings layer_types sliding_window_pattern _sliding_window_pattern sliding_window
use_sliding_window max_window_layers query_pre_attn_scalar head_dim num_key_value_heads no_rope_layers bos_token_id
eos_token_id pad_token_id
"""
_IGNORED_WORDS = """
architectures model_type transformers_version name_or_path _name_or_path _commit_hash auto_map torch_dtype dtype
use_cache initializer_range attention_dropout output_hidden_states output_attentions return_dict problem_type
chunk_size_feed_forward id2label label2id num_labels tokenizer_class task_specific_params finetuning_task unk_token_id
sep_token_id decoder_start_token_id gradient_checkpointing attn_implementation torchscript _attn_implementation
_attn_implementation_autoset experts_implementation use_flash_attn cache_implementation unsloth_version unsloth_fixed
use_bfloat16 tf_legacy_loss is_decoder is_encoder_decoder is_llama_config rope_interleaved max_length min_length
do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size num_return_sequences
remove_invalid_values output_scores return_dict_in_generate bad_words_ids exponential_decay_length_penalty
forced_bos_token_id forced_eos_token_id begin_suppress_tokens suppress_tokens pretraining_tp transformers.js_config
_num_labels output_past predict_special_tokens max_sequence_length model_max_length neftune_noise_alpha
"""
READ = frozenset(_READ_WORDS.split())
"""Fields that `convert/hparams.py` and `convert/rope.py` read by name."""
IGNORED = frozenset(_IGNORED_WORDS.split())
"""Fields of any configuration that don't change a trained model's logits."""
