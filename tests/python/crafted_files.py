"""Files made to cost far more memory or time than their size: each once did, or would without its check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tiny_gguf import F32, Q8_0, Tensor, pack, tiny_adapter, tiny_model, write_gguf


def _shared_tensors(n_layer: int) -> bytes:
    """A model of many layers that all claim the same bytes."""
    d, kv = 2, 1 << 14
    shapes = {"attn_q": (kv, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, kv), "ffn_gate": (kv, d),
              "ffn_up": (kv, d), "ffn_down": (d, kv), "attn_norm": (d,), "ffn_norm": (d,)}  # fmt: skip
    meta = {"general.architecture": "llama", "llama.block_count": n_layer, "llama.embedding_length": d,
            "llama.feed_forward_length": kv, "llama.context_length": 64, "llama.attention.head_count": kv // 1024,
            "llama.attention.key_length": 1024, "llama.attention.layer_norm_rms_epsilon": 1e-5}  # fmt: skip
    shared = b"\0" * (4 * kv * d)
    tensors = {"token_embd.weight": Tensor(F32, (2, d), shared), "output_norm.weight": Tensor(F32, (d,), b"")}
    for i in range(n_layer):
        tensors |= {f"blk.{i}.{stem}.weight": Tensor(F32, shape, b"") for stem, shape in shapes.items()}
    file = write_gguf(meta, tensors)
    raw = bytearray(file.raw)
    for field in file.fields:
        if field.kind == "offset":
            raw[field.at : field.at + 8] = bytes(8)
    return bytes(raw)


def _wide_heads() -> bytes:
    """Honest tensors, but one element of embedding for 262,144 of keys: 4 MB of weights, 134 MB for 64 positions."""
    kv = 1 << 18
    meta = {"general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 1,
            "llama.context_length": 64, "llama.feed_forward_length": 1,
            "llama.attention.head_count": 256, "llama.attention.key_length": kv // 256,
            "llama.attention.layer_norm_rms_epsilon": 1e-5}  # fmt: skip
    shapes = {"token_embd": (3, 1), "output_norm": (1,), "blk.0.attn_q": (kv, 1), "blk.0.attn_k": (kv, 1),
              "blk.0.attn_v": (kv, 1), "blk.0.attn_output": (1, kv), "blk.0.ffn_gate": (1, 1), "blk.0.ffn_up": (1, 1),
              "blk.0.ffn_down": (1, 1), "blk.0.attn_norm": (1,), "blk.0.ffn_norm": (1,)}  # fmt: skip
    return write_gguf(meta, {f"{n}.weight": pack(np.zeros(s, np.float32), F32) for n, s in shapes.items()}).raw


def _vocabulary(**changes: object) -> bytes:
    return tiny_model("llama", metadata={f"tokenizer.ggml.{k}": v for k, v in changes.items()}).raw


def _long_tokens(texts: list[str]) -> bytes:
    tokens = ["<unk>", "<s>", "</s>", "▁", *texts]
    n = len(tokens)
    types = np.array([2, 3, 3] + [1] * (n - 3), np.int32)
    scores = np.arange(n, 0, -1).astype(np.float32)
    meta = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types, "tokenizer.ggml.scores": scores}
    return tiny_model("llama", n_vocab=n, metadata=meta).raw


def models() -> Iterator[tuple[str, bytes]]:
    yield "1000 layers in the same bytes", _shared_tensors(1000)
    yield "wide heads", _wide_heads()
    yield "token types that are strings", _vocabulary(token_type=["x" * 200_000, *[""] * 200_000])
    yield "scores that are strings", _vocabulary(scores=["x" * 200_000, *[""] * 200_000])
    yield "one long token", _long_tokens(["a", "aa", "aaaa", "a" * 7000])
    yield "every length of one letter", _long_tokens(["a" * i for i in range(1, 530)])
    yield "a long token, just allowed", _long_tokens(["a", "aa", "aaaa", "a" * 3100])
    yield "every length up to 300", _long_tokens(["a" * i for i in range(1, 300)])
    yield "every length of an emoji", _long_tokens(["\N{GRINNING FACE}" * i for i in range(1, 300)])
    yield "100000 metadata entries", write_gguf({f"{i:05x}": True for i in range(100_000)}, {}).raw
    yield "an architecture of 1 MB", tiny_model(metadata={"general.architecture": "x\n" * 500_000}).raw
    bad = tiny_model("qwen2", metadata={"tokenizer.ggml.merges": [" " * 5_000_000]})
    yield "a merge of spaces", bad.raw
    for name, value in (("eps", 1e-300), ("huge", 1e308), ("nan", np.float64("nan"))):
        yield f"rope base {name}", tiny_model(metadata={"llama.rope.freq_base": np.float64(value)}).raw


def adapters(peft: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Name, adapter_config.json and adapter_model.safetensors, from a good folder."""
    config = (peft / "adapter_config.json").read_bytes()
    weights = (peft / "adapter_model.safetensors").read_bytes()
    patterns = [
        "(.|.)" * 50 + "!",
        "(?x:(.+) +!)",
        "(?x:((.+) +) +!)",
        "(.+)(?#)+!",
        ".*.*.*.*.*!",
        "(?:.|.)" * 36 + "!",
    ]
    for pattern in patterns:
        fields = {**json.loads(config), "rank_pattern": {pattern: 2}}
        yield f"pattern {pattern}", json.dumps(fields).encode(), weights
    many = {f".*.*.*{i}": 2 for i in range(4000)}
    yield "4000 patterns", json.dumps({**json.loads(config), "alpha_pattern": many}).encode(), weights
    for text in (
        b"[" * 1_000_000,
        b"[" + b"[]," * 2_000_000 + b"[]]",
        b'{"a":' * 100_000,
        b'{"r":' + b"9" * 5000 + b"}",
    ):
        name = f"JSON {text[:6].decode()}"
        yield f"{name} in the configuration", text, weights
        yield f"{name} in the weights", config, len(text).to_bytes(8, "little") + text
    deep = json.dumps({**json.loads(config), "new": 1}).encode()
    for depth in (300, 900, 960, 970, 980, 990, 5000):
        yield f"depth {depth}", deep.replace(b'"new": 1', b'"new": ' + b"[" * depth + b"]" * depth), weights
    for dtype, n in (("I64", 8), ("U8", 1), ("F64", 8), ("BOOL", 1)):
        entry = {"dtype": dtype, "shape": [40, 32], "data_offsets": [0, 1280 * n]}
        head = json.dumps({"base_model.model.model.embed_tokens.weight": entry}).encode()
        yield f"base copy of type {dtype}", config, len(head).to_bytes(8, "little") + head + bytes(1280 * n)


def gguf_adapters() -> Iterator[tuple[str, bytes]]:
    for alpha in (1e308, np.inf, np.nan):
        yield f"alpha {alpha}", tiny_adapter("llama", F32, base=Q8_0, alpha=np.float64(alpha)).raw
