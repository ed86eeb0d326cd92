"""The safetensors of a model folder, whole or in shards, and their conversion to the types of GGUF."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from ..quant import Q8_0_BLOCK, f32_to_bf16, quantize_q8_0, to_f32
from ..safetensors_file import SafetensorsFile
from .fields import read_json

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
        self.check_type(name)
        return self._files[name].array(name)

    def check_type(self, name: str) -> None:
        dtype = self._files[name].info[name].dtype
        if dtype not in ("F32", "F16", "BF16"):
            raise ValueError(f"[convert] {self.folder}: {name!r} has the type {dtype}; F32, F16 and BF16 are read")

    def same(self, first: str, second: str) -> bool:
        """Whether two tensors are equal, compared some rows at a time."""
        if self.shape(first) != self.shape(second):
            return False
        x, y = self.array(first), self.array(second)
        step = max(1, CHUNK // max(1, x[0].size)) if len(x) else 1
        for start in range(0, len(x), step):
            if not np.array_equal(to_f32(x[start : start + step]), to_f32(y[start : start + step])):
                return False
            self.release(first)
            self.release(second)
        return True

    def release(self, name: str) -> None:
        """Gives back the memory of what was read of the file that holds `name`."""
        self._files[name].release()


def stored_type(wanted: str, shape: tuple[int, ...], stem: str = "") -> str:
    """Type a tensor is stored in: vectors, norms and positions f32; for blocks, rows that are no multiple of 32 long
    f16 (as llama.cpp does)."""
    if len(shape) == 1 or stem.endswith("_norm") or stem == "position_embd":
        return "f32"
    return "f16" if wanted in ("q8_0", "q4_0") and shape[-1] % Q8_0_BLOCK else wanted


def stored_shape(kind: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and numpy type of the stored array; rows of blocks are counted in bytes."""
    if kind in ("f32", "f16", "bf16"):
        return shape, np.dtype({"f32": "<f4", "f16": "<f2", "bf16": "<u2"}[kind])
    elements, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]]
    return (*shape[:-1], shape[-1] // elements * n_bytes), np.dtype(np.uint8)


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


def meaning(stored: Array, kind: str) -> NDArray[np.float32]:
    """What `convert` made of an array, as float32."""
    if kind != "q4_0":
        return to_f32(stored)
    values: NDArray[np.float32] = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.Q4_0)
    return values


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
    if kind == "q4_0":
        if np.abs(part).max(initial=0.0) / 8 > np.finfo(np.float16).max:
            raise ValueError(f"[convert] {name}: a block's scale exceeds float16's 65504; bf16 or f32 would hold it")
        blocks: Array = gguf.quants.quantize(part, gguf.GGMLQuantizationType.Q4_0)
        return blocks
    with np.errstate(over="ignore"):
        half = part.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"[convert] {name}: a value exceeds float16's 65504; bf16 or f32 would hold it")
    return half
