"""Tiny Hugging Face folders made from nothing: safetensors, models and PEFT adapters with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from lora_edge.adapter_file import BaseInfo
from lora_edge.quant import f32_to_bf16

Tensors = dict[str, np.ndarray]
NAMES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "float64": "F64", "int32": "I32"}

HF_MODULE = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
}  # fmt: skip


def write_safetensors(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """uint16 arrays are written as BF16."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, x in tensors.items():
        spec = {
            "dtype": NAMES[x.dtype.name],
            "shape": list(x.shape),
            "data_offsets": [offset, offset + x.nbytes],
        }
        header[name] = spec
        offset += x.nbytes
    raw = json.dumps(header).encode()
    data = b"".join(np.ascontiguousarray(x).tobytes() for x in tensors.values())
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    x = rng.standard_normal(shape).astype(np.float32)
    return f32_to_bf16(x) if dtype == "bf16" else x.astype(dtype)


def interleave(rows: np.ndarray, n_head: int) -> np.ndarray:
    """Hugging Face's q or k rows in GGUF "llama" order, spelt out row by row."""
    size = rows.shape[0] // n_head
    out = np.empty_like(rows)
    for head in range(n_head):
        for i in range(size // 2):
            out[head * size + 2 * i] = rows[head * size + i]
            out[head * size + 2 * i + 1] = rows[head * size + size // 2 + i]
    return out


def hf_module(gguf_stem: str) -> str:
    if gguf_stem.startswith("blk."):
        _, layer, stem = gguf_stem.split(".")
        return f"model.layers.{layer}.{HF_MODULE[stem]}"
    return {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}[gguf_stem]


def tiny_base(arch: str = "llama", tied: bool = False) -> BaseInfo:
    """2 layers, d 24, 4 heads of 8 and 2 KV heads, ffn 40, 50 tokens."""
    shapes = {"token_embd.weight": (50, 24)} | ({} if tied else {"output.weight": (50, 24)})
    for i in range(2):
        layer = {"attn_q": (32, 24), "attn_k": (16, 24), "attn_v": (16, 24), "attn_output": (24, 32),
                 "ffn_gate": (40, 24), "ffn_up": (40, 24), "ffn_down": (24, 40)}  # fmt: skip
        shapes |= {f"blk.{i}.{stem}.weight": shape for stem, shape in layer.items()}
    return BaseInfo(arch, 4, 2, 8, shapes)


def peft_tensors(
    base: BaseInfo, rng: np.random.Generator, ranks: dict[str, int], dtype: str = "float32", infix: str = ""
) -> Tensors:
    """The tensors of a PEFT file for the GGUF tensors in `ranks`; infix: the adapter's name as in
    ".default"."""
    tensors: Tensors = {}
    for tensor, r in ranks.items():
        n, k = base.shape(tensor) or (0, 0)
        module = f"base_model.model.{hf_module(tensor.removesuffix('.weight'))}"
        if tensor == "token_embd.weight":
            tensors[f"{module}.lora_embedding_A{infix}"] = random_array(rng, (r, n), dtype)
            tensors[f"{module}.lora_embedding_B{infix}"] = random_array(rng, (k, r), dtype)
        else:
            tensors[f"{module}.lora_A{infix}.weight"] = random_array(rng, (r, k), dtype)
            tensors[f"{module}.lora_B{infix}.weight"] = random_array(rng, (n, r), dtype)
    return tensors


def write_peft(folder: Path, tensors: Tensors, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    fields = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "bias": "none",
        "task_type": "CAUSAL_LM",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


CLASSES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2",
           "Qwen3ForCausalLM": "qwen3"}  # fmt: skip


def tiny_config(cls: str, **changes: Any) -> dict[str, Any]:
    """config.json of a model with 2 layers, d 64, 4 heads of 8 (not 16) and 2 KV heads, ffn 40, 50 tokens."""
    return {
        "architectures": [cls], "hidden_size": 64, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 50,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 96, "hidden_act": "silu", "sliding_window": None, **changes,
    }  # fmt: skip


def tiny_weights(config: dict[str, Any], rng: np.random.Generator, dtype: str = "float32") -> Tensors:
    """Random tensors, under Hugging Face's names, for `tiny_config`."""
    cls, d, f, n_vocab = (
        config["architectures"][0], config["hidden_size"], config["intermediate_size"], config["vocab_size"],
    )  # fmt: skip
    q, kv = (
        config["num_attention_heads"] * config["head_dim"],
        config["num_key_value_heads"] * config["head_dim"],
    )
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (n_vocab, d),
        "model.norm.weight": (d,),
    }
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (n_vocab, d)
    for i in range(config["num_hidden_layers"]):
        layer: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.weight": (q, d), "self_attn.k_proj.weight": (kv, d),
            "self_attn.v_proj.weight": (kv, d),
            "self_attn.o_proj.weight": (d, q), "mlp.gate_proj.weight": (f, d), "mlp.up_proj.weight": (f, d),
            "mlp.down_proj.weight": (d, f), "input_layernorm.weight": (d,),
            "post_attention_layernorm.weight": (d,),
        }  # fmt: skip
        if cls == "Qwen2ForCausalLM" or config.get("attention_bias"):
            layer |= {
                "self_attn.q_proj.bias": (q,),
                "self_attn.k_proj.bias": (kv,),
                "self_attn.v_proj.bias": (kv,),
            }
        if config.get("attention_bias"):
            layer["self_attn.o_proj.bias"] = (d,)
        if cls == "Qwen3ForCausalLM":
            layer |= {
                "self_attn.q_norm.weight": (config["head_dim"],),
                "self_attn.k_norm.weight": (config["head_dim"],),
            }
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    return {name: random_array(rng, shape, dtype) for name, shape in shapes.items()}


def write_model(folder: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    return folder
