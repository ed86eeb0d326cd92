"""A base with adapters merged into its weights: what a merged model costs, beside which unmerged ones are measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence as Seq
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from ..adapter_file import BaseInfo, LoraEntry, read_adapter
from ..gguf_file import GgufFile, open_gguf
from ..quant import dequantize_q8_0
from .weights import CHUNK, Array, convert, stored_shape, to_f32
from .writer import Planned, Progress, check_out, write_gguf

Part = tuple[LoraEntry, float]  # and the weight given to it


def merge_adapters(
    base: str | os.PathLike[str],
    adapters: Seq[tuple[str | os.PathLike[str], float]],
    out: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> Path:
    """Writes W + Σ weight · scale · B A of a base (a GGUF file) and adapters (GGUF or PEFT, each with its weight),
    rounded to the types of the base's tensors; everything else is the base's.

    A tied output becomes a tensor of its own where an adapter changes it or the embedding alone. ValueError: an
    adapter is not for this base, or the sum doesn't fit the type. Memory: about the largest tensor.
    """
    base, out = Path(base), Path(out)
    check_out(out)
    source = open_gguf(base)
    info = BaseInfo.from_gguf(source)
    parts: dict[str, list[Part]] = {}
    for path, weight in adapters:
        for name, entry in read_adapter(path, info.arch, info).entries.items():
            parts.setdefault(name, []).append((entry, weight))
    origins = {name: name for name in source.tensors}
    if "output.weight" not in origins and {"token_embd.weight", "output.weight"} & set(parts):
        origins["output.weight"] = "token_embd.weight"
    tensors = [_plan(source, info, name, origin, parts.get(name, [])) for name, origin in origins.items()]
    write_gguf(out, info.arch, _metadata(base), tensors, progress)
    return out


def _plan(source: GgufFile, info: BaseInfo, name: str, origin: str, parts: list[Part]) -> Planned:
    array, kind = source.tensors[origin], source.core.tensors()[origin][1].lower()
    shape = info.shapes.get(origin, array.shape)
    make: Callable[[], Array] = (lambda: _merged(array, kind, name, shape, parts)) if parts else (lambda: array)
    return Planned(name, kind, shape, make)


def _merged(array: Array, kind: str, name: str, shape: tuple[int, ...], parts: list[Part]) -> Array:
    """The stored tensor plus the products of its factors, some rows at a time."""
    stored, dtype = stored_shape(kind, shape)
    out = np.empty(stored, dtype)
    factors = [_factors(name, entry, weight) for entry, weight in parts]
    step = max(1, CHUNK // shape[1])
    for at in range(0, shape[0], step):
        rows = array[at : at + step]
        sums = dequantize_q8_0(rows) if kind == "q8_0" else to_f32(rows)
        for tall, wide in factors:
            sums += tall[at : at + step] @ wide
        out[at : at + step] = convert(sums, kind, name)
    return out


def _factors(name: str, entry: LoraEntry, weight: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[n, r] and [r, k], whose product is added to W [n, k]."""
    a, b = to_f32(entry.a), to_f32(entry.b)
    tall, wide = (a, b.T) if name == "token_embd.weight" else (b, a)
    return tall * np.float32(entry.scale * weight), wide


def _metadata(base: Path) -> dict[str, tuple[Any, gguf.GGUFValueType]]:
    fields = gguf.GGUFReader(base).fields
    return {
        key: (field.contents(), field.types[0])
        for key, field in fields.items()
        if not key.startswith("GGUF.") and key != "general.architecture"
    }
