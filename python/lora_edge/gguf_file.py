"""A GGUF file as Python needs it: metadata, and tensors as read-only arrays on the mapped file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence as Seq
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core

READABLE = ("F32", "F16", "BF16", "Q8_0")  # as arrays; those below as rows
BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


class GgufFile:
    """A GGUF v2 or v3 file, checked by the core's reader when it is opened.

    metadata: key -> int, float, bool, str, numpy array of numbers, or list of str. tensors: name -> read-only
    array in numpy order (n, k): float32, float16, uint16 (bfloat16 bits) or uint8 (raw Q8_0 blocks,
    [n, k / 32 * 34]). Of the types in BLOCKS it is a BlockRows. Looking up one of another type is a ValueError that
    names it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.core = _core.GgufFile(os.fspath(path))
        self.tensors: Mapping[str, Any] = _Tensors(self.core)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        return self.core.metadata()


class BlockRows:
    """A tensor [n, k] in blocks of a few bits: a slice or a list of its rows is float32, dequantised as it is asked
    for."""

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, core: _core.GgufFile, name: str) -> None:
        shape, self.kind, _ = core.tensors()[name]
        self._core, self._name, self.shape = core, name, (math.prod(shape[:-1]), shape[-1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Seq[int]) -> NDArray[np.float32]:
        if not isinstance(rows, slice):
            return np.concatenate([self[:0], *(self[i : i + 1] for i in rows)])
        first, last, step = rows.indices(len(self))
        return self._core.rows(self._name, first, max(first, last))[::step]


class _Tensors(Mapping[str, Any]):
    def __init__(self, core: _core.GgufFile) -> None:
        self._core = core
        self._infos = core.tensors()

    def __getitem__(self, name: str) -> Any:
        kind = self._infos[name][1]
        if kind in BLOCKS:
            return BlockRows(self._core, name)
        if kind not in READABLE:
            raise ValueError(f"[gguf] tensor {name!r} has the type {kind}; {', '.join(READABLE + BLOCKS)} are read")
        return self._core.tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)


def open_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Maps a GGUF file. ValueError: it is damaged; OSError: it can't be opened."""
    return GgufFile(path)
