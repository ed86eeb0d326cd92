"""Adapters of random numbers: as large and as costly as trained ones of their rank, where only that matters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from ..adapter_file import BaseInfo
from ..architectures import TABLE
from ..gguf_file import open_gguf
from ..hf_names import is_permuted, permute_rows
from .weights import Array
from .writer import planned_whole, write_gguf

F32, STRING = gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING
ALPHA_PER_RANK = 2
SHARE = 0.3  # size of the adapter's part of a linear's output, relative to the base's
MAX_RANK = 1 << 12


def linears(arch: str) -> dict[str, str]:
    """Module inside a layer -> stem of every linear of an architecture.  ValueError: it is not known."""
    for row in TABLE:
        if row.gguf == arch:
            return {w.module: w.stem for w in row.layer if len(w.shape) == 2 and not w.stem.endswith("_norm")}
    raise ValueError(f"[adapter] the architecture {arch[:40]!r} is not known")


LINEARS = linears("llama")


def random_factors(info: BaseInfo, rank: int, seed: int) -> Iterator[tuple[int, str, Array, Array]]:
    """(layer, module, A [rank, k], B [n, rank]) of all linears of each layer, f16, in Hugging Face's layout."""
    if not 1 <= rank <= MAX_RANK:
        raise ValueError(f"[adapter] rank is {rank}, not from 1 to {MAX_RANK}")
    rng = np.random.default_rng(seed)
    size_b = SHARE / (ALPHA_PER_RANK * np.sqrt(rank))
    for i in range(sum(name.endswith(".attn_output.weight") for name in info.shapes)):
        for module, stem in linears(info.arch).items():
            n, k = info.shapes[f"blk.{i}.{stem}.weight"]
            a = rng.normal(0, 1 / np.sqrt(k), (rank, k)).astype(np.float16)
            yield i, module, a, rng.normal(0, size_b, (n, rank)).astype(np.float16)


def write_random_adapter(
    base: str | os.PathLike[str], out: str | os.PathLike[str], *, rank: int, seed: int = 0
) -> Path:
    """Writes a GGUF adapter for `base`, a GGUF file: all linears of every layer, f16."""
    info, out = BaseInfo.from_gguf(open_gguf(base)), Path(out)
    tensors = []
    for i, module, a, b in random_factors(info, rank, seed):
        stem = f"blk.{i}.{linears(info.arch)[module]}"
        if is_permuted(info.arch, stem):
            b = permute_rows(b, info.n_head if stem.endswith("attn_q") else info.n_head_kv)
        tensors += [planned_whole(f"{stem}.weight.lora_a", a), planned_whole(f"{stem}.weight.lora_b", b)]
    metadata = {
        "general.type": ("adapter", STRING),
        "general.name": (out.stem, STRING),
        "adapter.type": ("lora", STRING),
        "adapter.lora.alpha": (float(ALPHA_PER_RANK * rank), F32),
    }
    write_gguf(out, info.arch, metadata, tensors)
    return out
