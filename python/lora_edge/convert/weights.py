"""The safetensors of a model folder, whole or in shards, and their conversion to the types of GGUF."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..quant import Q8_0_BLOCK, Q8_0_BYTES, bf16_to_f32, f32_to_bf16, quantize_q8_0
from ..safetensors_file import SafetensorsFile
from .hparams import read_json

Array = NDArray[Any]
CHUNK = 1 << 20  # values converted at a time
MAX_SHARDS = 4096


class WeightFolder:
    """Every tensor of model.safetensors, or of the shards that model.safetensors.index.json lists."""

    def __init__(self, folder: Path) -> None:
        single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        listed: dict[str, str] = {}  # tensor -> shard
        if single.is_file():
            names = [single.name]
        elif index.is_file():
            table = read_json(index).get("weight_map")
            if not isinstance(table, dict) or not all(isinstance(n, str) for n in table.values()):
                raise ValueError(f"[convert] {index} has no weight_map")
            listed = table
            names = sorted(set(listed.values()))
            if len(names) > MAX_SHARDS or any(os.path.basename(n) != n or n in ("", ".", "..") for n in names):
                raise ValueError(f"[convert] {index} names files outside of its folder")
        else:
            raise FileNotFoundError(f"{folder} has no model.safetensors (other formats are not read)")
        self.folder = folder
        self._files: dict[str, SafetensorsFile] = {}
        for name in names:
            file = SafetensorsFile(folder / name)
            for tensor in file:
                if tensor in self._files:
                    raise ValueError(f"[convert] {folder}: the tensor {tensor!r} is in more than one file")
                self._files[tensor] = file
        absent = set(listed) - set(self._files)
        if absent:
            raise ValueError(f"[convert] {folder}: the tensor {min(absent)!r} is in none of the shards")

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files[name].info[name].shape

    def array(self, name: str) -> Array:
        """A view as float32, float16 or uint16 (bfloat16 bits).  ValueError: another type."""
        dtype = self._files[name].info[name].dtype
        if dtype not in ("F32", "F16", "BF16"):
            raise ValueError(f"[convert] {self.folder}: {name!r} has the type {dtype}; F32, F16 and BF16 are read")
        return self._files[name].array(name)


def to_f32(x: Array) -> NDArray[np.float32]:
    """float32, float16 or bfloat16 bits -> float32 (exact)."""
    return bf16_to_f32(x) if x.dtype == np.uint16 else x.astype(np.float32)


def stored_type(wanted: str, shape: tuple[int, ...]) -> str:
    """Type a tensor is stored in: vectors f32; for q8_0, rows that are no multiple of 32 long f16 (as
    llama.cpp does)."""
    if len(shape) == 1:
        return "f32"
    return "f16" if wanted == "q8_0" and shape[-1] % Q8_0_BLOCK else wanted


def stored_shape(kind: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and numpy type of the stored array; Q8_0 rows are counted in bytes."""
    if kind == "q8_0":
        return (*shape[:-1], shape[-1] // Q8_0_BLOCK * Q8_0_BYTES), np.dtype(np.uint8)
    return shape, np.dtype({"f32": "<f4", "f16": "<f2", "bf16": "<u2"}[kind])


def convert(x: Array, kind: str, name: str) -> Array:
    """An array of one of the source types in a stored type; little more memory than the result.

    ValueError: a value is not finite, or too large for the type.
    """
    shape, dtype = stored_shape(kind, x.shape)
    out = np.empty(shape, dtype)
    rows_in, rows_out = x.reshape(-1, x.shape[-1]), out.reshape(-1, shape[-1])
    step = max(1, CHUNK // max(1, x.shape[-1]))
    for start in range(0, rows_in.shape[0], step):
        part = to_f32(rows_in[start : start + step])
        if not np.isfinite(part).all():
            raise ValueError(f"[convert] {name}: a value is not finite")
        rows_out[start : start + step] = _narrow(part, kind, name)
    return out


def _narrow(part: NDArray[np.float32], kind: str, name: str) -> Array:
    if kind == "f32":
        return part
    if kind == "bf16":
        return f32_to_bf16(part)
    if kind == "q8_0":
        try:
            return quantize_q8_0(part)
        except ValueError as error:
            raise ValueError(f"[convert] {name}: {error}; bf16 or f32 would hold it") from None
    with np.errstate(over="ignore"):
        half = part.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"[convert] {name}: a value exceeds float16's 65504; bf16 or f32 would hold it")
    return half
