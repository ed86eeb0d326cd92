"""The decoder in plain numpy, from the papers: the engine's outside judge where torch is not.

x = E[token]; in each layer x += Wo · attention(norm(x)), then x += Wdown · (silu(Wgate h) ∘ Wup h) with h = norm(x);
logits = O · norm(x). RMSNorm: Zhang & Sennrich 2019. RoPE: Su et al. 2021. GQA: Ainslie et al. 2023. SwiGLU: Shazeer
2020. LoRA: Hu et al. 2021.
Everything is float64 but for what the file and the engine's number formats decide: weights are what the file holds, a
linear with Q8_0 weights sees its input quantised per block of 32, keys and values are rounded to the cache's type, and
RoPE's angles are float32 as in transformers.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from lora_edge.quant import bf16_to_f32, dequantize_q8_0

Array = np.ndarray
Adapters = Seq[tuple["ReferenceAdapter", float]]  # with weights

Q8_0, BF16 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.BF16


def read_tensors(reader: gguf.GGUFReader) -> tuple[dict[str, Array], set[str]]:
    """Values of all tensors in numpy order, float64, and the names of those stored as Q8_0."""
    tensors, quantised = {}, set()
    for t in reader.tensors:
        raw = np.array(t.data)
        if t.tensor_type == Q8_0:
            quantised.add(t.name)
            raw = dequantize_q8_0(raw)
        elif t.tensor_type == BF16:
            raw = bf16_to_f32(raw.view(np.uint16))
        tensors[t.name] = raw.astype(np.float64)
    return tensors, quantised


def q8_round_trip(x: Array) -> Array:
    """x [m, k] -> what is left of it after Q8_0 activation quantisation: q · d, d = max|x| / 127 in float32, q rounded
    half to even."""
    blocks = x.astype(np.float32).reshape(len(x), -1, 32)
    d = np.abs(blocks).max(axis=2, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(d == 0, np.float32(0), np.float32(1) / d)
    return np.asarray((np.rint(blocks * inverse).astype(np.float64) * d).reshape(x.shape))


def cached(x: Array, kv_type: str) -> Array:
    """Keys or values [..., head_dim] as a cache of that type gives them back; Q8_0 keeps its scales as f16."""
    if kv_type == "f32":
        return x.astype(np.float32).astype(np.float64)
    if kv_type == "f16":
        return x.astype(np.float16).astype(np.float64)
    blocks = x.astype(np.float32).reshape(*x.shape[:-1], -1, 32)
    d = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        q = np.rint(blocks * np.where(d == 0, np.float32(0), np.float32(1) / d))
    return np.asarray((q * d.astype(np.float16).astype(np.float64)).reshape(x.shape))


class ReferenceAdapter:
    """A GGUF adapter file's factors; scale alpha / r, or 1 where alpha is 0."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.tensors, _ = read_tensors(reader)
        self.alpha = float(reader.fields["adapter.lora.alpha"].contents())

    def factors(self, name: str) -> tuple[Array, Array, float] | None:
        if f"{name}.lora_a" not in self.tensors:
            return None
        a, b = self.tensors[f"{name}.lora_a"], self.tensors[f"{name}.lora_b"]
        return a, b, self.alpha / b.shape[1] if self.alpha else 1.0


class Reference:
    def __init__(self, path: Path, kv_type: str = "f32") -> None:
        reader = gguf.GGUFReader(path)
        self.fields: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items()}
        self.w, self.quantised = read_tensors(reader)
        self.arch = str(self.fields["general.architecture"])
        self.kv_type = kv_type
        get = self._get
        self.n_layer, self.n_head = get("block_count"), get("attention.head_count")
        self.n_kv, self.head_dim = get("attention.head_count_kv"), get("attention.key_length")
        self.eps = float(np.float32(get("attention.layer_norm_rms_epsilon")))

    def _get(self, key: str, default: Any = None) -> Any:
        return self.fields.get(f"{self.arch}.{key}", default)

    def norm(self, x: Array, name: str) -> Array:
        return np.asarray(x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * self.w[f"{name}.weight"])

    def linear(self, x: Array, name: str, adapters: Adapters) -> Array:
        """y = W·x + b + Σ s·B(A·x) for x [m, k]; the low-rank path sees x as it is."""
        key = f"{name}.weight"
        stored = "token_embd.weight" if key not in self.w else key  # a tied output
        y = (q8_round_trip(x) if stored in self.quantised else x) @ self.w[stored].T
        if f"{name}.bias" in self.w:
            y = y + self.w[f"{name}.bias"]
        for adapter, weight in adapters:
            found = adapter.factors(key)
            if found:
                a, b, scale = found
                y = y + weight * scale * ((x @ a.T) @ b.T)
        return np.asarray(y)

    def embed(self, ids: Seq[int], adapters: Adapters) -> Array:
        x = self.w["token_embd.weight"][list(ids)]
        for adapter, weight in adapters:
            found = adapter.factors("token_embd.weight")
            if found:
                a, b, scale = found
                x = x + weight * scale * (a[list(ids)] @ b.T)
        return np.asarray(x)

    def rope(self, x: Array) -> Array:
        """Rotates x [n, heads, head_dim] by its positions: pairs (2i, 2i + 1) for arch llama, else (i, i + half)."""
        half = self.head_dim // 2
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        base = float(np.float32(self._get("rope.freq_base")))
        frequencies = np.float32(1) / (base ** exponents.astype(np.float64)).astype(np.float32)
        frequencies = frequencies / np.float32(self._get("rope.scaling.factor", 1.0))
        frequencies = frequencies / self.w.get("rope_freqs.weight", np.ones(half)).astype(np.float32)
        angles = (np.arange(len(x), dtype=np.float32)[:, None] * frequencies).astype(np.float64)[:, None, :]
        cos, sin = np.cos(angles), np.sin(angles)
        interleaved, halves = (np.s_[..., 0::2], np.s_[..., 1::2]), (np.s_[..., :half], np.s_[..., half:])
        first, second = interleaved if self.arch == "llama" else halves
        out = np.empty_like(x)
        out[first] = x[first] * cos - x[second] * sin
        out[second] = x[first] * sin + x[second] * cos
        return out

    def attention(self, h: Array, layer: str, adapters: Adapters) -> Array:
        n, group = len(h), self.n_head // self.n_kv
        q, k, v = (self.linear(h, f"{layer}.attn_{part}", adapters).reshape(n, -1, self.head_dim) for part in "qkv")
        if self.arch == "qwen3":
            q, k = self.norm(q, f"{layer}.attn_q_norm"), self.norm(k, f"{layer}.attn_k_norm")
        q, k = self.rope(q), self.rope(k)
        k, v = (np.repeat(cached(x, self.kv_type), group, axis=1) for x in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(self.head_dim)
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        return self.linear(np.einsum("hij,jhd->ihd", p, v).reshape(n, -1), f"{layer}.attn_output", adapters)

    def logits(self, ids: Seq[int], adapters: Adapters = ()) -> Array:
        """Float64 logits [len(ids), n_vocab]."""
        x = self.embed(ids, adapters)
        for i in range(self.n_layer):
            layer = f"blk.{i}"
            x = x + self.attention(self.norm(x, f"{layer}.attn_norm"), layer, adapters)
            h = self.norm(x, f"{layer}.ffn_norm")
            gate, up = self.linear(h, f"{layer}.ffn_gate", adapters), self.linear(h, f"{layer}.ffn_up", adapters)
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, f"{layer}.ffn_down", adapters)
        return self.linear(self.norm(x, "output_norm"), "output", adapters)
