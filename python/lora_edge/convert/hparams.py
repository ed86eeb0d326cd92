"""A Hugging Face `config.json` of the supported architectures, reduced to the numbers that GGUF needs.

Defaults of absent fields are those of transformers' configuration classes.  Whatever would change the
arithmetic and is not supported is a ValueError that names the field.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Class -> (GGUF architecture, defaults that differ from Llama's)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("llama", {"max_position_embeddings": 2048}),
    "MistralForCausalLM": (
        "llama",
        {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    ),
    "Qwen2ForCausalLM": ("qwen2", {"num_key_value_heads": 32, "max_position_embeddings": 32768}),
    "Qwen3ForCausalLM": (
        "qwen3",
        {"num_key_value_heads": 32, "max_position_embeddings": 32768, "head_dim": 128},
    ),
}
MODEL_TYPES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM",
               "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}  # fmt: skip
MAX_JSON = 64 << 20  # bytes


@dataclass(frozen=True)
class HParams:
    """`window`: positions that a token sees in the narrowest layer, itself included; None: all of them."""

    arch: str
    n_vocab: int
    n_embd: int
    n_ff: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ctx: int
    window: int | None
    norm_eps: float
    rope_theta: float
    rope_linear: float | None  # factor of linear scaling
    rope_factors: NDArray[np.float32] | None  # [head_dim / 2], llama3's divisors of the frequencies
    qkv_bias: bool
    output_bias: bool  # of attention's output projection
    qk_norm: bool
    tied: bool
    raw: dict[str, Any]

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(n, k) by GGUF tensor name, of token_embd, output (unless tied) and each layer's linears."""
        q, kv, d, f = self.n_head * self.head_dim, self.n_head_kv * self.head_dim, self.n_embd, self.n_ff
        shapes = {"token_embd.weight": (self.n_vocab, d)}
        if not self.tied:
            shapes["output.weight"] = (self.n_vocab, d)
        layer = {"attn_q": (q, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, q),
                 "ffn_gate": (f, d), "ffn_up": (f, d), "ffn_down": (d, f)}  # fmt: skip
        for i in range(self.n_layer):
            shapes.update({f"blk.{i}.{stem}.weight": shape for stem, shape in layer.items()})
        return shapes


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size.  ValueError: too large, or not an object."""
    if os.path.getsize(path) > MAX_JSON:
        raise ValueError(f"[convert] {path} is larger than {MAX_JSON >> 20} MiB")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"[convert] {path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"[convert] {path} is not a JSON object")
    return value


def read_hparams(folder: Path) -> HParams:
    """Read config.json of a model folder.  FileNotFoundError, or ValueError naming what is not supported."""
    path = folder / "config.json"
    if not path.is_file():
        what = "it has no config.json" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"{folder} is not a Hugging Face model folder: {what}")
    return parse_hparams(read_json(path), str(path))


def parse_hparams(config: dict[str, Any], where: str) -> HParams:
    names = config.get("architectures") or [MODEL_TYPES.get(str(config.get("model_type")), config.get("model_type"))]
    if not isinstance(names, list):
        raise ValueError(f"[convert] {where}: architectures is {str(names)[:60]!r}, not a list of class names")
    if len(names) != 1 or names[0] not in ARCHITECTURES:
        raise ValueError(f"[convert] {where}: {names} is not supported; {', '.join(ARCHITECTURES)} are")
    arch, defaults = ARCHITECTURES[names[0]]
    get = _Fields({**defaults, **config}, where)

    n_embd, n_head = get.count("hidden_size"), get.count("num_attention_heads")
    n_layer = get.count("num_hidden_layers")
    head_dim = get.count("head_dim", n_embd // n_head)
    if head_dim % 2:
        get.fail("head_dim", "an odd number, which rotary embeddings cannot use")
    n_head_kv = get.count("num_key_value_heads", n_head)
    if n_head % n_head_kv:
        get.fail("num_key_value_heads", f"not a divisor of {n_head} heads")
    if get.fields.get("hidden_act", "silu") not in ("silu", "swish"):
        get.fail("hidden_act", "not supported; silu is")
    for name in ("mlp_bias", "quantization_config"):
        if get.fields.get(name):
            get.fail(name, "not supported")
    attention_bias = get.flag("attention_bias") and names[0] in ("LlamaForCausalLM", "Qwen3ForCausalLM")
    if attention_bias and arch == "qwen3":
        get.fail("attention_bias", "not supported in qwen3")

    n_ctx = get.count("max_position_embeddings")
    window = _sliding_window(get, names[0], n_layer)
    theta, linear, factors = _rope(get, head_dim, n_ctx)
    return HParams(
        arch=arch, n_vocab=get.count("vocab_size"), n_embd=n_embd, n_ff=get.count("intermediate_size"),
        n_layer=n_layer, n_head=n_head, n_head_kv=n_head_kv, head_dim=head_dim,
        n_ctx=n_ctx, window=window if window and window < n_ctx else None,
        norm_eps=get.number("rms_norm_eps", 1e-6), rope_theta=theta, rope_linear=linear, rope_factors=factors,
        qkv_bias=attention_bias or arch == "qwen2", output_bias=attention_bias, qk_norm=arch == "qwen3",
        tied=get.flag("tie_word_embeddings"), raw=config,
    )  # fmt: skip


class _Fields:
    """Typed access to the fields of a configuration."""

    def __init__(self, fields: dict[str, Any], where: str) -> None:
        self.fields, self.where = fields, where

    def fail(self, name: str, what: str) -> None:
        raise ValueError(f"[convert] {self.where}: {name} = {str(self.fields.get(name))[:60]} is {what}")

    def count(self, name: str, default: int | None = None) -> int:
        value = self.fields.get(name)
        value = default if value is None else value
        if type(value) is not int or not 0 < value < 1 << 31:
            self.fail(name, "not a positive whole number")
        assert isinstance(value, int)
        return value

    def number(self, name: str, default: float) -> float:
        value = self.fields.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e30:
            self.fail(name, "not a finite number")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self.fields.get(name) or False
        if not isinstance(value, bool):
            self.fail(name, "neither true nor false")
        return bool(value)


def _sliding_window(get: _Fields, cls: str, n_layer: int) -> int | None:
    """Positions a token sees in the narrowest layer, itself included; None if every layer sees all."""
    if cls == "LlamaForCausalLM" or get.fields.get("sliding_window") is None:
        return None
    window = get.count("sliding_window")
    if cls == "MistralForCausalLM":
        return window
    if not get.flag("use_sliding_window"):
        return None
    types = get.fields.get("layer_types")
    if types is None:
        return window if get.fields.get("max_window_layers", 28) < n_layer else None
    if not isinstance(types, list) or not set(types) <= {"full_attention", "sliding_attention"}:
        get.fail("layer_types", "not supported")
    return window if "sliding_attention" in types else None


def _rope(get: _Fields, head_dim: int, n_ctx: int) -> tuple[float, float | None, NDArray[np.float32] | None]:
    """(theta, linear factor or None, llama3's frequency divisors or None), from either layout of the
    configuration."""
    table = get.fields.get("rope_scaling") or get.fields.get("rope_parameters") or {}
    if not isinstance(table, dict):
        get.fail("rope_scaling", "not an object")
    outer = {
        "rope_theta": get.fields.get("rope_theta"),
        "partial_rotary_factor": get.fields.get("partial_rotary_factor"),
    }
    rope = _Fields({**outer, "original_max_position_embeddings": n_ctx, **table}, f"{get.where}: rope")
    theta = rope.number("rope_theta", 10000.0)
    if rope.number("partial_rotary_factor", 1.0) != 1.0:
        rope.fail("partial_rotary_factor", "not supported")
    kind = table.get("rope_type", table.get("type", "default"))
    if kind == "default":
        return theta, None, None
    if kind == "linear":
        return theta, rope.number("factor", math.nan), None
    if kind != "llama3":
        raise ValueError(
            f"[convert] {rope.where}: rope_type {str(kind)[:40]!r} is not supported; default, linear and llama3 are"
        )
    factor, low, high = (rope.number(key, math.nan) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    old_ctx = rope.count("original_max_position_embeddings")
    if not low < high:
        rope.fail("low_freq_factor", "not below high_freq_factor")
    turns = old_ctx / (2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim))  # per original context, each pair
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return theta, None, (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
