"""The decoder in plain numpy, from the papers: the engine's outside judge where torch is not.

x = E[token]; in each layer x += Wo · attention(norm(x)), then x += Wdown · (silu(Wgate h) ∘ Wup h) with h = norm(x);
logits = O · norm(x). What architectures do otherwise is told by the sets below. RMSNorm: Zhang & Sennrich 2019. RoPE:
Su et al. 2021. GQA: Ainslie et al. 2023. SwiGLU: Shazeer 2020. LoRA: Hu et al. 2021.
Everything is float64 but for what the file and the engine's number formats decide: weights are what the file holds, a
linear with weights in blocks sees its input quantised per block of 32, keys and values are rounded to the cache's type,
and RoPE's angles are float32 as in transformers.
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

INTERLEAVED = {"llama", "granite", "smollm3"}  # rotate pairs (2i, 2i + 1), not (i, i + half)
LAYER_NORM = {"gpt2", "stablelm"}
GELU = {"gemma2", "gemma3", "gpt2"}
GEMMA = {"gemma2", "gemma3"}
POST_NORM = GEMMA | {"olmo2"}
FUSED = {"gpt2", "phi3"}  # queries, keys and values; phi3 gate and up, too; gpt2 has no gate
PERIODS = {"gemma2": 2, "gemma3": 6, "olmo2": 4}  # every such layer sees all, those between a window

Q8_0, BF16 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.BF16


def read_tensors(reader: gguf.GGUFReader) -> tuple[dict[str, Array], set[str]]:
    """Values of all tensors in numpy order, float64, and the names of those stored in blocks."""
    tensors, quantised = {}, set()
    for t in reader.tensors:
        raw = np.array(t.data)
        if t.tensor_type == Q8_0:
            quantised.add(t.name)
            raw = dequantize_q8_0(raw)
        elif t.tensor_type == BF16:
            raw = bf16_to_f32(raw.view(np.uint16))
        elif t.tensor_type not in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
            quantised.add(t.name)
            raw = gguf.quants.dequantize(raw, t.tensor_type)
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
        self.n_kv = get("attention.head_count_kv")
        self.head_dim = get("attention.key_length", get("embedding_length") // self.n_head)
        kind = "layer_norm" if self.arch in LAYER_NORM else "layer_norm_rms"
        self.eps = float(np.float32(get(f"attention.{kind}_epsilon")))
        self.n_rot = get("rope.dimension_count", self.head_dim)
        window = get("attention.sliding_window", 4096 if self.arch == "gemma2" else 0)
        period = get("attention.sliding_window_pattern", PERIODS.get(self.arch, 0))
        if not isinstance(period, list):
            period = [period == 0 or i % period < period - 1 for i in range(self.n_layer)]
        self.windows = [window if windowed else 0 for windowed in period]

    def _get(self, key: str, default: Any = None) -> Any:
        return self.fields.get(f"{self.arch}.{key}", default)

    def norm(self, x: Array, name: str) -> Array:
        """Over the last axis; layer norms have a bias, but for those of queries and keys."""
        if self.arch in LAYER_NORM:
            x = x - x.mean(axis=-1, keepdims=True)
        y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * self.w[f"{name}.weight"]
        return np.asarray(y + self.w.get(f"{name}.bias", 0))

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
        if self.arch == "gpt2":
            x = x + self.w["position_embd.weight"][: len(ids)]
        return np.asarray(x * (self.head_scale() if self.arch in GEMMA else self._get("embedding_scale", 1.0)))

    def head_scale(self) -> float:
        return float(np.sqrt(np.float32(self._get("embedding_length"))))

    def rope(self, x: Array, layer: int) -> Array:
        """Rotates the first n_rot elements of each head of x [n, heads, head_dim] by its positions."""
        if self.arch == "gpt2" or (self.arch == "smollm3" and layer % 4 == 3):
            return x
        half, local = self.n_rot // 2, self.arch == "gemma3" and self.windows[layer] > 0
        exponents = np.arange(0, self.n_rot, 2, dtype=np.float32) / np.float32(self.n_rot)
        base = float(np.float32(self._get("rope.freq_base_swa", 1e4) if local else self._get("rope.freq_base")))
        powers = (base ** exponents.astype(np.float64)).astype(np.float32)
        if "rope_factors_short.weight" in self.w:
            longer = self._get("context_length") > self._get("rope.scaling.original_context_length")
            powers = powers * self.w[f"rope_factors_{'long' if longer else 'short'}.weight"].astype(np.float32)
        frequencies = np.float32(1) / powers
        if not local:
            frequencies = frequencies / np.float32(self._get("rope.scaling.factor", 1.0))
            frequencies = frequencies / self.w.get("rope_freqs.weight", np.ones(half)).astype(np.float32)
        angles = (np.arange(len(x), dtype=np.float32)[:, None] * frequencies).astype(np.float64)[:, None, :]
        cos, sin = (f(angles) * self._get("rope.scaling.attn_factor", 1.0) for f in (np.cos, np.sin))
        interleaved = (np.s_[..., 0 : 2 * half : 2], np.s_[..., 1 : 2 * half : 2])
        halves = (np.s_[..., :half], np.s_[..., half : 2 * half])
        first, second = interleaved if self.arch in INTERLEAVED else halves
        out = x.copy()
        out[first] = x[first] * cos - x[second] * sin
        out[second] = x[first] * sin + x[second] * cos
        return out

    def qkv(self, h: Array, layer: str, adapters: Adapters) -> list[Array]:
        """Queries, keys and values [n, heads, head_dim], normed where the architecture does so."""
        q_dim, kv_dim = self.n_head * self.head_dim, self.n_kv * self.head_dim
        if self.arch in FUSED:
            parts = np.split(self.linear(h, f"{layer}.attn_qkv", adapters), [q_dim, q_dim + kv_dim], axis=-1)
        else:
            parts = [self.linear(h, f"{layer}.attn_{part}", adapters) for part in "qkv"]
        names = [f"{layer}.attn_{part}_norm" for part in "qk"]
        if self.arch == "olmo2":
            parts[:2] = [self.norm(x, name) for x, name in zip(parts[:2], names, strict=True)]
        parts = [x.reshape(len(h), -1, self.head_dim) for x in parts]
        if f"{names[0]}.weight" in self.w and self.arch != "olmo2":
            parts[:2] = [self.norm(x, name) for x, name in zip(parts[:2], names, strict=True)]
        return parts

    def attention(self, h: Array, i: int, adapters: Adapters) -> Array:
        n, group, layer = len(h), self.n_head // self.n_kv, f"blk.{i}"
        q, k, v = self.qkv(h, layer, adapters)
        q, k = self.rope(q, i), self.rope(k, i)
        k, v = (np.repeat(cached(x, self.kv_type), group, axis=1) for x in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) * (self._get("attention.scale") or self.head_dim**-0.5)
        cap = self._get("attn_logit_softcapping", 50.0 if self.arch == "gemma2" else 0.0)
        if cap:
            scores = cap * np.tanh(scores / cap)
        back = np.arange(n)[:, None] - np.arange(n)
        scores = np.where((back >= 0) & (back < (self.windows[i] or n)), scores, -np.inf)
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        return self.linear(np.einsum("hij,jhd->ihd", p, v).reshape(n, -1), f"{layer}.attn_output", adapters)

    def ffn(self, h: Array, layer: str, adapters: Adapters) -> Array:
        separate = self.arch not in FUSED
        gate = self.linear(h, f"{layer}.ffn_gate", adapters) if separate else np.ones(1)
        up = self.linear(h, f"{layer}.ffn_up", adapters)
        if self.arch == "phi3":
            gate, up = np.split(up, 2, axis=-1)
        elif self.arch == "gpt2":
            gate, up = up, np.ones(1)
        if self.arch in GELU:
            gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        return self.linear(gate * up, f"{layer}.ffn_down", adapters)

    def logits(self, ids: Seq[int], adapters: Adapters = ()) -> Array:
        """Float64 logits [len(ids), n_vocab]."""
        x = self.embed(ids, adapters)
        for i in range(self.n_layer):
            layer = f"blk.{i}"

            def pre(x: Array, name: str, layer: str = layer) -> Array:
                return x if self.arch == "olmo2" else self.norm(x, f"{layer}.{name}_norm")

            def post(y: Array, name: str, layer: str = layer) -> Array:
                y = self.norm(y, f"{layer}.post_{name}_norm") if self.arch in POST_NORM else y
                return y * self._get("residual_scale", 1.0)

            h = pre(x, "attn")
            x = x + post(self.attention(h, i, adapters), "attention")
            if not self._get("use_parallel_residual", False):
                h = pre(x, "ffn")
            x = x + post(self.ffn(h, layer, adapters), "ffw")
        y = self.linear(self.norm(x, "output_norm"), "output", adapters) / self._get("logit_scale", 1.0)
        cap = self._get("final_logit_softcapping", 30.0 if self.arch == "gemma2" else 0.0)
        return np.asarray(cap * np.tanh(y / cap) if cap else y)
