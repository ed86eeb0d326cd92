"""Adapters of random numbers: as large and as costly as trained ones of their rank, where only that matters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from ..adapter_file import BaseInfo
from ..gguf_file import open_gguf
from ..hf_names import LAYER_MODULES, is_permuted, permute_rows
from .weights import Array
from .writer import Planned, write_gguf

F32, STRING = gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING
LINEARS = {module: stem for module, stem in LAYER_MODULES.items() if module.endswith("_proj")}
ALPHA_PER_RANK = 2
SHARE = 0.3  # size of the adapter's part of a linear's output, relative to the base's
MAX_RANK = 1 << 12


def random_factors(info: BaseInfo, rank: int, seed: int) -> Iterator[tuple[int, str, Array, Array]]:
    """(layer, module, A [rank, k], B [n, rank]) of all seven linears of each layer, f16, in Hugging Face's layout."""
    if not 1 <= rank <= MAX_RANK:
        raise ValueError(f"[adapter] rank is {rank}, not from 1 to {MAX_RANK}")
    rng = np.random.default_rng(seed)
    size_b = SHARE / (ALPHA_PER_RANK * np.sqrt(rank))
    for i in range(sum(name.endswith(".attn_q.weight") for name in info.shapes)):
        for module, stem in LINEARS.items():
            n, k = info.shapes[f"blk.{i}.{stem}.weight"]
            a = rng.normal(0, 1 / np.sqrt(k), (rank, k)).astype(np.float16)
            yield i, module, a, rng.normal(0, size_b, (n, rank)).astype(np.float16)


def write_random_adapter(
    base: str | os.PathLike[str], out: str | os.PathLike[str], *, rank: int, seed: int = 0
) -> Path:
    """Writes a GGUF adapter for `base`, a GGUF file: all seven linears of every layer, f16."""
    info, out = BaseInfo.from_gguf(open_gguf(base)), Path(out)
    tensors = []
    for i, module, a, b in random_factors(info, rank, seed):
        stem = f"blk.{i}.{LINEARS[module]}"
        if is_permuted(info.arch, stem):
            b = permute_rows(b, info.n_head if stem.endswith("attn_q") else info.n_head_kv)
        tensors += [_whole(f"{stem}.weight.lora_a", a), _whole(f"{stem}.weight.lora_b", b)]
    metadata = {
        "general.type": ("adapter", STRING),
        "general.name": (out.stem, STRING),
        "adapter.type": ("lora", STRING),
        "adapter.lora.alpha": (float(ALPHA_PER_RANK * rank), F32),
    }
    write_gguf(out, info.arch, metadata, tensors)
    return out


def _whole(name: str, array: Array) -> Planned:
    return Planned(name, "f16", array.shape, lambda: array)
