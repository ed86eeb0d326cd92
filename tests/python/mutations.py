"""Seeded damage: a valid model or adapter, and one to three changes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from adapter_folders import mlx_tensors, state_dict_pickle, write_mlx, write_torch
from hf_folders import Tensors, peft_tensors, write_peft
from lora_edge.adapter_file import BaseInfo
from lora_edge.gguf_file import open_gguf
from tiny_encoder import tiny_encoder
from tiny_gguf import (
    BF16,
    F16,
    F32,
    Q8_0,
    File,
    Tensor,
    patch,
    tiny_adapter,
    tiny_adapter_of_all_kinds,
    tiny_model,
    write_gguf,
)

Rng = np.random.Generator
NUMBERS = [0, 1, 2, 3, 5, 7, 8, 9, 10, 12, 31, 33, 64, 255, 256, 4095, 65535, 1 << 20, (1 << 24) + 1, (1 << 31) - 1,
           1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 61) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 32,
           (1 << 64) - 1, 0x7F800000, 0xFFC00000, 0x7F7FFFFF, 0x00000001]  # fmt: skip
VALUES: list[Any] = [None, True, False, -1, 0, 1, 0.5, 1e39, -1e308, float("nan"), float("inf"), 1 << 70, "",
                     "x" * 5000, "\ud800", "a\nb", [], [[]], {}, {"(.|.)" * 40: 1}, {".*.*.*x": 2},
                     {"q_proj": 1 << 40}, "LORA", [0, 0], [-1, 8], [0, 1 << 62], [1 << 30, 1 << 30], [2] * 9,
                     "F64", "I8", "BF16"]  # fmt: skip
BASE = BaseInfo("llama", 2, 1, 16, {"blk.0.attn_q.weight": (32, 32), "blk.0.ffn_down.weight": (32, 32),
                                   "token_embd.weight": (40, 32)})  # fmt: skip


def choose(rng: Rng, things: list[Any]) -> Any:
    return things[int(rng.integers(len(things)))]


def rewritten(path: Path) -> File:
    """A real model's file, written again so that its fields are known."""
    file = open_gguf(path)
    kinds = {"F32": F32, "F16": F16, "Q8_0": Q8_0}
    tensors = {
        n: Tensor(kinds[t], shape, file.tensors[n].tobytes()) for n, (shape, t, _) in file.core.tensors().items()
    }
    return write_gguf(file.metadata, tensors)


def models(real: list[Path]) -> list[File]:
    tiny = [
        ("llama", F32),
        ("llama", F16),
        ("llama", Q8_0),
        ("qwen2", F32),
        ("qwen2", Q8_0),
        ("qwen3", BF16),
        ("qwen3", Q8_0),
        ("gemma3", Q8_0),
        ("phi3", F16),
        ("gpt2", F32),
        ("stablelm", Q8_0),
    ]
    encoders = [tiny_encoder(), tiny_encoder(Q8_0, json_tokenizer=False)]
    return [tiny_model(arch, kind) for arch, kind in tiny] + encoders + [rewritten(path) for path in real]


def adapters() -> list[File]:
    return [*(tiny_adapter("llama", kind, base=Q8_0) for kind in (F32, F16, BF16, Q8_0)), tiny_adapter_of_all_kinds()]


def change_field(rng: Rng, file: File, raw: bytes) -> bytes:
    """An integer of the head becomes another: one near it, a suspicious one, or the size of something."""
    field = choose(rng, file.fields)
    old = int.from_bytes(raw[field.at : field.at + field.size], "little")
    near = [
        old + 1,
        old - 1,
        old * 2,
        old // 2,
        old + 32,
        len(raw),
        len(raw) - field.at,
        old ^ (1 << int(rng.integers(64))),
    ]
    new = choose(rng, near if rng.random() < 0.4 else NUMBERS) if field.kind != "type" else int(rng.integers(45))
    return patch(raw, field.at, new, field.size)


def flip_bits(rng: Rng, raw: bytes) -> bytes:
    data = bytearray(raw)
    head = len(data) if rng.random() < 0.3 else min(len(data), 3000)
    for at in rng.integers(0, max(head, 1), size=int(rng.integers(1, 9))) if data else ():
        data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def splice(rng: Rng, raw: bytes, other: bytes) -> bytes:
    """A piece of `other` takes the place of a piece of the file, which may change its length."""
    a, b = sorted(int(i) for i in rng.integers(0, len(raw) + 1, size=2))
    c = int(rng.integers(0, len(other) + 1))
    b = min(b, a + 4000)
    return raw[:a] + other[c : c + (b - a if rng.random() < 0.7 else int(rng.integers(0, 200)))] + raw[b:]


def fill(rng: Rng, raw: bytes) -> bytes:
    """A run of zeros, ones (NaN) or infinities."""
    a, n = int(rng.integers(0, len(raw) + 1)), int(rng.integers(1, 400))
    pattern = choose(rng, [b"\0", b"\xff", b"\x00\x7c", b"\x00\x00\x80\x7f"])
    n = min(n, len(raw) - a)
    return raw[:a] + (pattern * n)[:n] + raw[a + n :]


def truncate(rng: Rng, raw: bytes) -> bytes:
    return raw[: int(rng.integers(0, len(raw) + 1))]


def damage_bytes(rng: Rng, raw: bytes, other: bytes) -> bytes:
    kinds: list[Callable[[], bytes]] = [lambda: flip_bits(rng, raw), lambda: splice(rng, raw, other),
                                        lambda: truncate(rng, raw), lambda: fill(rng, raw)]  # fmt: skip
    return kinds[int(rng.choice(4, p=[0.4, 0.2, 0.25, 0.15]))]()


def damage_gguf(rng: Rng, file: File, other: File) -> bytes:
    raw = file.raw
    for _ in range(int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))):
        keeps_places = len(raw) == len(file.raw)
        raw = change_field(rng, file, raw) if keeps_places and rng.random() < 0.6 else damage_bytes(rng, raw, other.raw)
    return raw


def damage_json(rng: Rng, text: bytes) -> bytes:
    """A value somewhere in a JSON text becomes another, or a key is added; or its bytes are damaged."""
    if rng.random() < 0.3:
        return damage_bytes(rng, text, text)
    if rng.random() < 0.05:
        return text.replace(b'"r": 4', b'"x": ' + choose(rng, [b"[", b'{"a":']) * int(rng.integers(1, 100_000)))
    table = json.loads(text)
    node = table
    while True:
        key = (
            choose(rng, [*node])
            if rng.random() < 0.85
            else choose(rng, ["new", "r", "use_dora", "\ud800\n", "rank_pattern"])
        )
        if isinstance(node.get(key), dict) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        node[key] = choose(rng, VALUES)
        return json.dumps(table).encode()


def damage_peft(rng: Rng, folder: Path, name: str = "adapter_model.safetensors") -> tuple[bytes, bytes]:
    """The configuration and the weights of `folder`, one of them or both damaged."""
    weights = (folder / name).read_bytes()
    config = (folder / "adapter_config.json").read_bytes()
    which = rng.integers(3)
    if which != 0:
        config = damage_json(rng, config)
    if which != 1:
        n = int.from_bytes(weights[:8], "little")
        head = damage_json(rng, weights[8 : 8 + n]) if rng.random() < 0.6 else weights[8 : 8 + n]
        weights = len(head).to_bytes(8, "little") + head + weights[8 + n :]
        if head == weights[8 : 8 + n]:
            weights = damage_bytes(rng, weights, config)
    return config, weights


def damage_torch(rng: Rng, folder: Path) -> tuple[bytes, bytes]:
    """The configuration and the checkpoint, of which the zip or the pickle in it is damaged."""
    config = (folder / "adapter_config.json").read_bytes()
    if rng.random() < 0.4:
        return config, damage_bytes(rng, (folder / "adapter_model.bin").read_bytes(), config)
    tensors = tensors_of_kinds()
    raw = damage_bytes(rng, state_dict_pickle(tensors), config)
    return config, write_torch(folder / "damaged.bin", tensors, raw).read_bytes()


def tensors_of_kinds() -> Tensors:
    """Factors with magnitudes, a whole output and trained rows."""
    rng = np.random.default_rng(0)
    tensors = peft_tensors(BASE, rng, dict.fromkeys([n for n in BASE.shapes if n != "token_embd.weight"], 4))
    magnitudes = {n.replace("lora_B.weight", "lora_magnitude_vector"): x[:, 0] for n, x in tensors.items() if "_B" in n}
    rows = rng.standard_normal((2, 32)).astype(np.float32)
    return {**tensors, **magnitudes, "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": rows}


def torch_folder(path: Path) -> Path:
    config = {"use_dora": True, "trainable_token_indices": [3, 1]}
    write_peft(path, {}, **config)
    (path / "adapter_model.safetensors").unlink()
    write_torch(path / "adapter_model.bin", tensors_of_kinds())
    return path


def mlx_folder(path: Path) -> Path:
    return write_mlx(path, mlx_tensors(BASE, np.random.default_rng(0), dict.fromkeys(BASE.shapes, 4)))


def peft_folder(path: Path) -> Path:
    tensors = peft_tensors(BASE, np.random.default_rng(0), dict.fromkeys(BASE.shapes, 4))
    return write_peft(path, tensors, rank_pattern={"q_proj": 4}, target_modules=["q_proj", "down_proj"])
