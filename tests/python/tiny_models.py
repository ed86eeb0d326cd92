"""Random tiny models and adapters, written as GGUF files with gguf-py: what the tests of the engine run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from lora_edge.quant import f32_to_bf16, quantize_q8_0

Tensors = dict[str, np.ndarray]
Factors = dict[str, tuple[np.ndarray, np.ndarray]]  # tensor -> lora_a, lora_b as the GGUF adapter file has them
ARCHS = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "olmo2", "granite", "stablelm", "smollm3"]
LAYER_NORM = ("gpt2", "stablelm")
POST_NORM = ("gemma2", "gemma3", "olmo2")
FUSED_QKV = ("gpt2", "phi3")
TYPES = {
    "f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0,
}  # fmt: skip

# Where the halves lie in blocks that gguf-py doesn't make.
SCALES = {"iq4_nl": [0], "q2_k": [80, 82], "q3_k": [108], "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208]}
BLOCKS = ["q4_0", "q4_1", "q5_0", "q5_1", *SCALES]


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
    n_rot: int | None = None  # None: head_dim
    long_factors: bool = False  # LongRoPE's
    head_norms: bool = False  # of stablelm
    window: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)  # metadata of the architecture's own

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(n, k) of every adaptable tensor."""
        q, kv = self.n_head * self.head_dim, self.n_kv * self.head_dim
        layer = {
            "attn_q": (q, self.d), "attn_k": (kv, self.d), "attn_v": (kv, self.d), "attn_output": (self.d, q),
            "ffn_gate": (self.n_ff, self.d), "ffn_up": (self.n_ff, self.d), "ffn_down": (self.d, self.n_ff),
        }  # fmt: skip
        if self.arch in FUSED_QKV:
            del layer["attn_q"], layer["attn_k"], layer["attn_v"], layer["ffn_gate"]
            layer["attn_qkv"] = (q + 2 * kv, self.d)
        if self.arch == "phi3":
            layer["ffn_up"] = (2 * self.n_ff, self.d)
        out = {f"blk.{i}.{stem}.weight": s for i in range(self.n_layer) for stem, s in layer.items()}
        return {"token_embd.weight": (self.n_vocab, self.d), "output.weight": (self.n_vocab, self.d), **out}


def fresh_rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def random_shape(rng: np.random.Generator, arch: str, *, whole_blocks: bool = False, **changes: Any) -> Shape:
    """1 to 3 layers, 1 to 4 query heads per KV head, heads that are not d / n_head wide. whole_blocks: depths are
    multiples of 32, so that Q8_0 holds all matrices. What only some architectures have is drawn too, unless `extra` is
    given."""
    n_kv = int(rng.integers(1, 4))
    n_head = n_kv * int(rng.integers(1, 4))
    head_dim = 2 * int(rng.integers(4, 17))
    d, n_ff = int(rng.integers(20, 80)), int(rng.integers(20, 140))
    if whole_blocks:
        head_dim, d, n_ff = 32 * int(rng.integers(1, 3)), 32 * int(rng.integers(1, 4)), 32 * int(rng.integers(1, 5))
    shape = Shape(
        arch, int(rng.integers(1, 4)), d, n_head, n_kv, head_dim, n_ff,
        n_vocab=int(rng.integers(60, 300)), tied=bool(rng.integers(2)),
        bias=arch == "qwen2" or (arch in ("llama", "stablelm", "smollm3") and bool(rng.integers(2))),
        rope_base=float(rng.choice([1e4, 5e5])),
        rope_linear=2.5 if rng.integers(3) == 0 and arch != "phi3" else None,
        rope_factors=arch == "llama" and bool(rng.integers(2)),
    )  # fmt: skip
    shape = replace(shape, **changes)
    if "extra" not in changes:
        shape = replace(shape, **{**_peculiarities(rng, shape), **changes})
    print(shape)
    return shape


def _peculiarities(rng: np.random.Generator, s: Shape) -> dict[str, Any]:
    """Fields that only some architectures have, drawn."""
    window = int(rng.integers(16, 100)) if rng.integers(2) else 0
    n_rot = 2 * int(rng.integers(1, s.head_dim // 2 + 1))
    if s.arch == "gemma2":
        caps = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}
        return {"window": int(rng.integers(16, 100)), "extra": caps if rng.integers(2) else {}}
    if s.arch == "gemma3":  # of 7 layers the sixth sees all
        period = {"attention.sliding_window_pattern": 2} if rng.integers(2) else {}
        return {"window": int(rng.integers(16, 100)), "n_layer": 3 if period else 7, "extra": period}
    if s.arch == "phi3":
        extra = {"rope.scaling.original_context_length": int(rng.choice([64, 512])), "rope.scaling.attn_factor": 1.3}
        long_factors = bool(rng.integers(2))
        return {"window": window, "n_rot": n_rot, "long_factors": long_factors, "extra": extra if long_factors else {}}
    if s.arch == "granite":
        scales = {"embedding_scale": 3.0, "residual_scale": 0.7, "logit_scale": 2.0, "attention.scale": 0.3}
        return {"extra": scales}
    if s.arch == "stablelm":
        parallel = {"use_parallel_residual": bool(rng.integers(2))}
        return {"n_rot": n_rot, "head_norms": bool(rng.integers(2)), "extra": parallel}
    if s.arch == "smollm3":  # the fourth layer has no positions
        return {"n_layer": int(rng.integers(4, 6))}
    if s.arch in ("llama", "qwen2") and window:
        pattern = [bool(i) for i in rng.integers(0, 2, s.n_layer)]
        return {"window": window, "extra": {"attention.sliding_window_pattern": pattern} if rng.integers(2) else {}}
    return {}


def random_tensors(rng: np.random.Generator, s: Shape) -> Tensors:
    """Float32 weights by GGUF name, scaled so that every part shows in logits of a deviation of a few units."""

    def normal(shape: tuple[int, ...], scale: float) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    t = {name: normal(shape, 1.2 / shape[1] ** 0.5) for name, shape in s.linears.items()}
    t["token_embd.weight"] = normal((s.n_vocab, s.d), 0.5)
    t["output.weight"] = normal((s.n_vocab, s.d), 0.5)
    if s.tied:
        del t["output.weight"]
    if s.rope_factors:
        t["rope_freqs.weight"] = rng.uniform(1, 8, s.head_dim // 2).astype(np.float32)
    if s.long_factors:
        for name in ("long", "short"):
            t[f"rope_factors_{name}.weight"] = rng.uniform(1, 8, (s.n_rot or s.head_dim) // 2).astype(np.float32)
    if s.arch == "gpt2":
        t["position_embd.weight"] = normal((s.n_ctx, s.d), 0.5)
    norms = {"output_norm": (s.d,), **{k: v for i in range(s.n_layer) for k, v in _layer_norms(s, i).items()}}
    for name, shape in norms.items():
        t[f"{name}.weight"] = rng.uniform(0.4, 1.6, shape).astype(np.float32)
        if s.arch in LAYER_NORM and "_q_" not in name and "_k_" not in name:
            t[f"{name}.bias"] = normal(shape, 0.3)
    biased = ("attn_qkv", "attn_output", "ffn_up", "ffn_down") if s.arch == "gpt2" else ("attn_q", "attn_k", "attn_v")
    if s.bias or s.arch == "gpt2":
        for name in [f"blk.{i}.{stem}" for i in range(s.n_layer) for stem in biased]:
            t[f"{name}.bias"] = normal((len(t[f"{name}.weight"]),), 1.0)
    return t


def _layer_norms(s: Shape, i: int) -> dict[str, tuple[int, ...]]:
    names = [] if s.arch == "olmo2" else ["attn_norm", "ffn_norm"]
    if s.extra.get("use_parallel_residual"):
        names.remove("ffn_norm")
    if s.arch in POST_NORM:
        names += ["post_attention_norm", "post_ffw_norm"]
    norms: dict[str, tuple[int, ...]] = {f"blk.{i}.{name}": (s.d,) for name in names}
    for part, heads in (("q", s.n_head), ("k", s.n_kv)):
        if s.arch in ("qwen3", "gemma3"):
            norms[f"blk.{i}.attn_{part}_norm"] = (s.head_dim,)
        if s.arch == "olmo2":
            norms[f"blk.{i}.attn_{part}_norm"] = (heads * s.head_dim,)
        if s.head_norms:
            norms[f"blk.{i}.attn_{part}_norm"] = (heads, s.head_dim)
    return norms


def write_model(
    path: Path,
    s: Shape,
    tensors: Tensors,
    type: str = "f32",
    vocabulary: Mapping[str, Any] | None = None,
    types: Mapping[str, str] | None = None,
) -> Path:
    """type: of the matrices, but for those of `types`; rows that don't divide into blocks are F16 in a Q8_0 file.
    vocabulary: of its keys, those of the tokenizer are written."""
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
    if s.arch in LAYER_NORM:
        w.add_layer_norm_eps(s.eps)
    else:
        w.add_layer_norm_rms_eps(s.eps)
    if s.arch != "gpt2":
        w.add_rope_freq_base(s.rope_base)
        w.add_rope_dimension_count(s.n_rot or s.head_dim)
    if s.window:
        w.add_sliding_window(s.window)
    if s.rope_linear is not None:
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(s.rope_linear)
    for key, value in s.extra.items():
        _add(w, f"{s.arch}.{key}", value)
    for key, value in (vocabulary or {}).items():
        if key.startswith("tokenizer."):
            _add(w, key, value)
    for name, x in tensors.items():
        w.add_tensor(name, *_stored(x, (types or {}).get(name, type) if name in s.linears else "f32"))
    _write(w)
    return path


def _add(w: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, (list, np.ndarray)):
        w.add_array(key, list(value) if isinstance(value, list) else value.tolist())
    elif isinstance(value, bool):
        w.add_bool(key, value)
    elif isinstance(value, int):
        w.add_uint32(key, value)
    elif isinstance(value, float):
        w.add_float32(key, value)
    else:
        w.add_string(key, str(value))


def _stored(x: np.ndarray, type: str) -> tuple[np.ndarray, None, gguf.GGMLQuantizationType]:
    if type not in TYPES:
        return random_blocks(x, type), None, gguf.GGMLQuantizationType[type.upper()]
    if type == "q8_0" and x.shape[-1] % 32:
        type = "f16"
    if type == "q8_0":
        return quantize_q8_0(x), None, TYPES[type]
    raw = f32_to_bf16(x) if type == "bf16" else x.astype({"f32": np.float32, "f16": np.float16}[type])
    return raw, None, TYPES[type]


def random_blocks(x: np.ndarray, type: str) -> np.ndarray:
    """Rows in blocks of `type`, [n, bytes]: of x where gguf-py can, else of random bytes with scales such that they are
    about as large as x."""
    kind = gguf.GGMLQuantizationType[type.upper()]
    try:
        return np.asarray(gguf.quants.quantize(x, kind))
    except NotImplementedError:
        pass
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(x.view(np.uint32).ravel()[:4])
    raw = rng.integers(0, 256, (len(x), x.shape[1] // elements, size), dtype=np.uint8)
    for scale in (1.0, None):
        if scale is None:  # with 1 the values say what it has to be
            ones = gguf.quants.dequantize(raw.reshape(len(x), -1), kind)
            scale = float(x.std() / ones.std())
        for at in SCALES[type]:
            raw[..., at : at + 2] = np.array([scale], "<f2").view(np.uint8)
    return raw.reshape(len(x), -1)


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
