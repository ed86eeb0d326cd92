"""Tiny GGUF files made from nothing, with the place of every count, length, type, dimension and offset in them.

Format: ggml's docs/gguf.md. Written by hand, so that tests can write what no writer would.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from lora_edge.pretokenizers import byte_alphabet
from lora_edge.quant import f32_to_bf16, quantize_q8_0

F32, F16, Q4_0, Q8_0, BF16 = 0, 1, 2, 8, 30
SCALARS = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "f8": 12}
STRING, ARRAY = 8, 9


class Field(NamedTuple):
    """A little-endian integer in the file's head. kind: count, length, type, dimension, offset, value, version."""

    kind: str
    at: int
    size: int


class Tensor(NamedTuple):
    """type: ggml's number; shape: numpy order, slowest first; raw: the bytes."""

    type: int
    shape: tuple[int, ...]
    raw: bytes


class File(NamedTuple):
    """A GGUF file's bytes and the integers of its head."""

    raw: bytes
    fields: list[Field]


class _Writer:
    def __init__(self) -> None:
        self.raw = bytearray()
        self.fields: list[Field] = []

    def integer(self, kind: str, value: int, size: int) -> None:
        self.fields.append(Field(kind, len(self.raw), size))
        self.raw += (value % 256**size).to_bytes(size, "little")

    def string(self, text: str | bytes) -> None:
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        self.integer("length", len(data), 8)
        self.raw += data

    def value(self, value: object) -> None:
        """str, bool, int (u32), float (f32), numpy scalars and arrays as they are, list of str."""
        if isinstance(value, (str, bytes)):
            self.integer("type", STRING, 4)
            self.string(value)
        elif isinstance(value, list):
            self.integer("type", ARRAY, 4)
            self.integer("type", STRING, 4)
            self.integer("count", len(value), 8)
            for text in value:
                self.string(text)
        elif isinstance(value, np.ndarray):
            self.integer("type", ARRAY, 4)
            self.integer("type", SCALARS[value.dtype.str[1:]], 4)
            self.integer("count", len(value), 8)
            self.raw += value.tobytes()
        else:
            plain = {bool: np.bool_, int: np.uint32, float: np.float32}.get(type(value))
            scalar = np.asarray(plain(value) if plain else value)
            self.integer("type", SCALARS[scalar.dtype.str[1:]], 4)
            self.fields.append(Field("value", len(self.raw), scalar.nbytes))
            self.raw += scalar.tobytes()


def write_gguf(
    metadata: Mapping[str, object], tensors: Mapping[str, Tensor], *, version: int = 3, alignment: int = 32
) -> File:
    """The bytes of a GGUF file; an `alignment` other than 32 must be in the metadata too."""
    out = _Writer()
    out.raw += b"GGUF"
    out.integer("version", version, 4)
    out.integer("count", len(tensors), 8)
    out.integer("count", len(metadata), 8)
    for key, value in metadata.items():
        out.string(key)
        out.value(value)
    data = bytearray()
    for name, tensor in tensors.items():
        data += bytes(-len(data) % alignment)
        out.string(name)
        out.integer("count", len(tensor.shape), 4)
        for dim in reversed(tensor.shape):
            out.integer("dimension", dim, 8)
        out.integer("type", tensor.type, 4)
        out.integer("offset", len(data), 8)
        data += tensor.raw
    if tensors:
        out.raw += bytes(-len(out.raw) % alignment)
    return File(bytes(out.raw + data), out.fields)


def pack(x: np.ndarray, kind: int) -> Tensor:
    """x float32 as a tensor of type F32, F16, BF16 or Q8_0."""
    raw = {
        F32: lambda: x.astype("<f4"),
        F16: lambda: x.astype("<f2"),
        BF16: lambda: f32_to_bf16(x),
        Q8_0: lambda: quantize_q8_0(x),
    }[kind]()
    return Tensor(kind, x.shape, np.ascontiguousarray(raw).tobytes())


def spm_vocab(n: int) -> dict[str, object]:
    """A SentencePiece vocabulary of n tokens, n > 10, without byte tokens."""
    tokens = ["<unk>", "<s>", "</s>", "▁", *(chr(ord("a") + i % 26) for i in range(26)), "▁a", "ab", "▁ab", "é"]
    tokens = (tokens + [f"t{i}" for i in range(n)])[:n]
    types = np.array([2, 3, 3] + [1] * (n - 3), np.int32)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": -np.arange(n, dtype=np.float32),
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def bpe_vocab(n: int) -> dict[str, object]:
    """A byte-level vocabulary of n tokens, n > 10, too few for all bytes."""
    tokens = ["<|endoftext|>", "<|im_end|>", "ab", *byte_alphabet(), *(f"t{i}" for i in range(n))][: n - 1]
    letters = ["a", "b"] if n < 80 else []
    tokens = list(dict.fromkeys([*tokens[: n - 1 - len(letters)], *letters, "Ġ"]))
    tokens += [f"u{i}" for i in range(n - len(tokens))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([3, 3] + [1] * (n - 2), np.int32),
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
    }


# Metadata of the architectures of `tiny_model`, without their names before it.
OWN_KEYS: dict[str, dict[str, object]] = {
    "gemma3": {"attention.sliding_window": 5, "attention.sliding_window_pattern": np.array([True]),
               "final_logit_softcapping": 30.0, "rope.freq_base_swa": 500.0},
    "phi3": {"attention.sliding_window": 3, "rope.scaling.original_context_length": 16,
             "rope.scaling.attn_factor": 1.2},
    "stablelm": {"rope.dimension_count": 2, "use_parallel_residual": False},
}  # fmt: skip


def tiny_model(
    arch: str = "llama",
    kind: int = F32,
    *,
    seed: int = 0,
    n_vocab: int = 40,
    metadata: Mapping[str, object] | None = None,
    version: int = 3,
) -> File:
    """One layer; d 8 (32 for Q8_0), 2 heads, 1 KV head, ffn 12 (32). Architectures: llama, qwen2, qwen3, gemma3, phi3,
    gpt2, stablelm. `metadata` is laid over the usual, None taking an entry away."""
    rng = np.random.default_rng(seed)
    d, ffn = (32, 32) if kind == Q8_0 else (8, 12)
    meta: dict[str, object] = {
        "general.architecture": arch,
        "general.name": "tiny",
        f"{arch}.block_count": 1,
        f"{arch}.embedding_length": d,
        f"{arch}.feed_forward_length": ffn,
        f"{arch}.context_length": 64,
        f"{arch}.attention.head_count": 2,
        f"{arch}.attention.head_count_kv": 1,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.freq_base": 10000.0,
    }
    layer_norm = arch in ("gpt2", "stablelm")
    if layer_norm:
        meta[f"{arch}.attention.layer_norm_epsilon"] = meta.pop(f"{arch}.attention.layer_norm_rms_epsilon")
    meta |= {f"{arch}.{key}": value for key, value in OWN_KEYS.get(arch, {}).items()}
    meta |= spm_vocab(n_vocab) if arch == "llama" else bpe_vocab(n_vocab)
    meta = {key: value for key, value in (meta | dict(metadata or {})).items() if value is not None}
    shapes = {
        "token_embd": (n_vocab, d), "blk.0.attn_q": (d, d), "blk.0.attn_k": (d // 2, d),
        "blk.0.attn_v": (d // 2, d), "blk.0.attn_output": (d, d), "blk.0.ffn_gate": (ffn, d),
        "blk.0.ffn_up": (ffn, d), "blk.0.ffn_down": (d, ffn),
    }  # fmt: skip
    if arch in ("phi3", "gpt2"):
        for part in ("attn_q", "attn_k", "attn_v", "ffn_gate"):
            del shapes[f"blk.0.{part}"]
        shapes |= {"blk.0.attn_qkv": (2 * d, d), "blk.0.ffn_up": (2 * ffn if arch == "phi3" else ffn, d)}
    tensors = {f"{n}.weight": pack(rng.standard_normal(s).astype(np.float32), kind) for n, s in shapes.items()}
    norms = ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"]
    if arch == "gemma3":
        norms += ["blk.0.post_attention_norm", "blk.0.post_ffw_norm"]
    floats: dict[str, tuple[int, ...]] = {f"{norm}.weight": (d,) for norm in norms}
    if layer_norm:
        floats |= {f"{norm}.bias": (d,) for norm in norms}
    if arch == "qwen2":
        floats |= {"blk.0.attn_q.bias": (d,), "blk.0.attn_k.bias": (d // 2,), "blk.0.attn_v.bias": (d // 2,)}
    if arch in ("qwen3", "gemma3"):
        floats |= {"blk.0.attn_q_norm.weight": (d // 2,), "blk.0.attn_k_norm.weight": (d // 2,)}
    if arch == "stablelm":
        floats |= {"blk.0.attn_q_norm.weight": (2, d // 2), "blk.0.attn_k_norm.weight": (1, d // 2)}
    if arch == "gpt2":
        floats |= {"position_embd.weight": (64, d), "blk.0.attn_qkv.bias": (2 * d,)}
    if arch == "phi3":
        floats |= {"rope_factors_long.weight": (d // 4,), "rope_factors_short.weight": (d // 4,)}
    for name, shape in floats.items():
        x = rng.standard_normal(shape).astype(np.float32)
        tensors[name] = pack(np.abs(x) + 0.1 if name.startswith("rope") else x, F32)
    return write_gguf(meta, tensors, version=version)


def tiny_adapter(arch: str = "llama", kind: int = F32, *, seed: int = 0, base: int = F32, alpha: object = 4.0) -> File:
    """A rank-2 adapter (32 for factors in Q8_0) on q and ffn_down of the tiny model of type `base`."""
    rng = np.random.default_rng(seed)
    d, ffn = (32, 32) if base == Q8_0 else (8, 12)
    r = 32 if kind == Q8_0 else 2
    meta = {
        "general.architecture": arch,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha,
    }
    tensors = {}
    for stem, n, k in (("attn_q", d, d), ("ffn_down", d, ffn)):
        tensors[f"blk.0.{stem}.weight.lora_a"] = pack(rng.standard_normal((r, k)).astype(np.float32), kind)
        tensors[f"blk.0.{stem}.weight.lora_b"] = pack(rng.standard_normal((n, r)).astype(np.float32), kind)
    return write_gguf(meta, tensors)


def tiny_adapter_of_all_kinds(arch: str = "llama", n_vocab: int = 40) -> File:
    """DoRA on q, a bias of lora_B on ffn_down, a whole embedding, a whole v in Q8_0, with its bias where the base has
    one, and invocation tokens; for the tiny model in Q8_0."""
    rng = np.random.default_rng(0)
    meta = {
        "general.architecture": arch, "general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 4.0,
        "adapter.alora.invocation_tokens": np.array([0, 0], np.uint32),
    }  # fmt: skip
    shapes = {
        "blk.0.attn_q.weight.lora_a": (2, 32), "blk.0.attn_q.weight.lora_b": (32, 2),
        "blk.0.attn_q.weight.lora_magnitude": (32,), "blk.0.ffn_down.weight.lora_a": (2, 32),
        "blk.0.ffn_down.weight.lora_b": (32, 2), "blk.0.ffn_down.weight.lora_b.bias": (32,),
        "token_embd.weight.modules_to_save": (n_vocab, 32), "blk.0.attn_v.weight.modules_to_save": (16, 32),
    }  # fmt: skip
    if arch == "qwen2":
        shapes["blk.0.attn_v.bias.modules_to_save"] = (16,)
    kinds = {"blk.0.attn_v.weight.modules_to_save": Q8_0}
    tensors = {n: pack(rng.standard_normal(s).astype(np.float32), kinds.get(n, F32)) for n, s in shapes.items()}
    return write_gguf(meta, tensors)


def every_value() -> File:
    """One metadata entry of each type, arrays of each, an empty array, and bytes that are no UTF-8; no tensors."""
    meta: dict[str, object] = {"string": "text", "bytes": b"\xff\xfe", "strings": ["", "a", "é"], "none": []}
    for code in SCALARS:
        meta[f"one.{code}"] = np.ones((), code)[()]
        meta[f"some.{code}"] = np.ones(3, code)
    return write_gguf(meta, {})


def patch(raw: bytes, at: int, value: int, size: int) -> bytes:
    return raw[:at] + struct.pack("<Q", value % 2**64)[:size] + raw[at + size :]
