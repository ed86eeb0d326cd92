"""Random tiny models and adapters, written as GGUF files with gguf-py: what the tests of the engine run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from lora_edge.quant import f32_to_bf16, quantize_q8_0

Tensors = dict[str, np.ndarray]
Factors = dict[str, tuple[np.ndarray, np.ndarray]]  # tensor -> lora_a, lora_b as the GGUF adapter file has them
ARCHS = ["llama", "qwen2", "qwen3"]
TYPES = {
    "f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    arch: str
    n_layer: int
    d: int
    n_head: int
    n_kv: int
    head_dim: int
    n_ff: int
    n_vocab: int
    tied: bool
    bias: bool = False
    rope_base: float = 1e4
    rope_linear: float | None = None
    rope_factors: bool = False
    eps: float = 1e-5
    n_ctx: int = 512

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(n, k) of every adaptable tensor."""
        q, kv = self.n_head * self.head_dim, self.n_kv * self.head_dim
        layer = {
            "attn_q": (q, self.d), "attn_k": (kv, self.d), "attn_v": (kv, self.d), "attn_output": (self.d, q),
            "ffn_gate": (self.n_ff, self.d), "ffn_up": (self.n_ff, self.d), "ffn_down": (self.d, self.n_ff),
        }  # fmt: skip
        out = {f"blk.{i}.{stem}.weight": s for i in range(self.n_layer) for stem, s in layer.items()}
        return {"token_embd.weight": (self.n_vocab, self.d), "output.weight": (self.n_vocab, self.d), **out}


def fresh_rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def random_shape(rng: np.random.Generator, arch: str, *, whole_blocks: bool = False, **changes: Any) -> Shape:
    """1 to 3 layers, 1 to 4 query heads per KV head, heads that are not d / n_head wide. whole_blocks: depths are
    multiples of 32, so that Q8_0 holds all matrices."""
    n_kv = int(rng.integers(1, 4))
    n_head = n_kv * int(rng.integers(1, 4))
    head_dim = 2 * int(rng.integers(4, 17))
    d, n_ff = int(rng.integers(20, 80)), int(rng.integers(20, 140))
    if whole_blocks:
        head_dim, d, n_ff = 32 * int(rng.integers(1, 3)), 32 * int(rng.integers(1, 4)), 32 * int(rng.integers(1, 5))
    shape = Shape(
        arch, int(rng.integers(1, 4)), d, n_head, n_kv, head_dim, n_ff,
        n_vocab=int(rng.integers(60, 300)), tied=bool(rng.integers(2)),
        bias=arch == "qwen2" or (arch == "llama" and bool(rng.integers(2))),
        rope_base=float(rng.choice([1e4, 5e5])),
        rope_linear=2.5 if rng.integers(3) == 0 else None,
        rope_factors=arch == "llama" and bool(rng.integers(2)),
    )  # fmt: skip
    shape = replace(shape, **changes)
    print(shape)
    return shape


def random_tensors(rng: np.random.Generator, s: Shape) -> Tensors:
    """Float32 weights by GGUF name, scaled so that every part shows in logits of a deviation of a few units."""

    def normal(shape: tuple[int, ...], scale: float) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    def norm(n: int) -> np.ndarray:
        return rng.uniform(0.4, 1.6, n).astype(np.float32)

    t = {name: normal(shape, 1.2 / shape[1] ** 0.5) for name, shape in s.linears.items()}
    t["token_embd.weight"] = normal((s.n_vocab, s.d), 0.5)
    t["output.weight"] = normal((s.n_vocab, s.d), 0.5)
    t["output_norm.weight"] = norm(s.d)
    if s.tied:
        del t["output.weight"]
    if s.rope_factors:
        t["rope_freqs.weight"] = rng.uniform(1, 8, s.head_dim // 2).astype(np.float32)
    for i in range(s.n_layer):
        t[f"blk.{i}.attn_norm.weight"] = norm(s.d)
        t[f"blk.{i}.ffn_norm.weight"] = norm(s.d)
        if s.arch == "qwen3":
            t[f"blk.{i}.attn_q_norm.weight"] = norm(s.head_dim)
            t[f"blk.{i}.attn_k_norm.weight"] = norm(s.head_dim)
        if s.bias:
            for stem in ("attn_q", "attn_k", "attn_v"):
                t[f"blk.{i}.{stem}.bias"] = normal((len(t[f"blk.{i}.{stem}.weight"]),), 1.0)
    return t


def write_model(
    path: Path, s: Shape, tensors: Tensors, type: str = "f32", vocabulary: Mapping[str, Any] | None = None
) -> Path:
    """type: of the matrices; rows that don't divide into blocks are F16 in a Q8_0 file. vocabulary: of its keys, those
    of the tokenizer are written."""
    w = gguf.GGUFWriter(str(path), s.arch)
    w.add_name(path.stem)
    w.add_context_length(s.n_ctx)
    w.add_embedding_length(s.d)
    w.add_block_count(s.n_layer)
    w.add_feed_forward_length(s.n_ff)
    w.add_head_count(s.n_head)
    w.add_head_count_kv(s.n_kv)
    w.add_key_length(s.head_dim)
    w.add_value_length(s.head_dim)
    w.add_layer_norm_rms_eps(s.eps)
    w.add_rope_freq_base(s.rope_base)
    w.add_rope_dimension_count(s.head_dim)
    if s.rope_linear is not None:
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(s.rope_linear)
    for key, value in (vocabulary or {}).items():
        if key.startswith("tokenizer."):
            _add(w, key, value)
    for name, x in tensors.items():
        w.add_tensor(name, *_stored(x, type if x.ndim == 2 else "f32"))
    _write(w)
    return path


def _add(w: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, (list, np.ndarray)):
        w.add_array(key, list(value) if isinstance(value, list) else value.tolist())
    elif isinstance(value, bool):
        w.add_bool(key, value)
    elif isinstance(value, int):
        w.add_uint32(key, value)
    else:
        w.add_string(key, str(value))


def _stored(x: np.ndarray, type: str) -> tuple[np.ndarray, None, gguf.GGMLQuantizationType]:
    if type == "q8_0" and x.shape[-1] % 32:
        type = "f16"
    if type == "q8_0":
        return quantize_q8_0(x), None, TYPES[type]
    raw = f32_to_bf16(x) if type == "bf16" else x.astype({"f32": np.float32, "f16": np.float16}[type])
    return raw, None, TYPES[type]


def _write(w: gguf.GGUFWriter) -> None:
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def tiny_model(path: Path, rng: np.random.Generator, arch: str = "llama", type: str = "f32", **changes: Any) -> Shape:
    """Writes a random model of one architecture to `path`."""
    shape = random_shape(rng, arch, **changes)
    write_model(path, shape, random_tensors(rng, shape), type)
    return shape


def random_factors(
    rng: np.random.Generator, s: Shape, tensors: list[str] | None = None, r: int | None = None
) -> Factors:
    """Factors of rank r (None: 1 to 9, of each its own) for some tensors (None: all), whose product, at scale 1, is
    about half as large as a weight."""
    factors = {}
    for name, (n, k) in s.linears.items():
        if tensors is not None and name not in tensors:
            continue
        rank = int(rng.integers(1, 10)) if r is None else r
        if name == "token_embd.weight":
            a, b = rng.standard_normal((n, rank)), rng.standard_normal((k, rank)) * 0.25 / rank**0.5
        else:
            a, b = rng.standard_normal((rank, k)) / k**0.5, rng.standard_normal((n, rank)) * 0.5 / rank**0.5
        factors[name] = (a.astype(np.float32), b.astype(np.float32))
    return factors


def write_adapter(path: Path, arch: str, factors: Factors, alpha: float = 0.0, type: str = "f32") -> Path:
    """A GGUF adapter as llama.cpp has it; its scale is alpha / r, or 1 where alpha is 0."""
    w = gguf.GGUFWriter(str(path), arch)
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", alpha)
    for name, (a, b) in factors.items():
        w.add_tensor(f"{name}.lora_a", *_stored(a, type))
        w.add_tensor(f"{name}.lora_b", *_stored(b, type))
    _write(w)
    return path


def random_ids(rng: np.random.Generator, s: Shape, n: int) -> list[int]:
    return [int(i) for i in rng.integers(0, s.n_vocab, n)]
