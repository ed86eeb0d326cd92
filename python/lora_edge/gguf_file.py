"""A GGUF file as Python needs it: metadata, and tensors as read-only arrays on the mapped file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from . import _core

READABLE = ("F32", "F16", "BF16", "Q8_0")


class GgufFile:
    """A GGUF v2 or v3 file, checked by the core's reader when it is opened.

    metadata: key -> int, float, bool, str, numpy array of numbers, or list of str. tensors: name -> read-only
    array in numpy order (n, k): float32, float16, uint16 (bfloat16 bits) or uint8 (raw Q8_0 blocks,
    [n, k / 32 * 34]); looking up one of another type is a ValueError that names it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.core = _core.GgufFile(os.fspath(path))
        self.tensors: Mapping[str, NDArray[Any]] = _Tensors(self.core)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        return self.core.metadata()


class _Tensors(Mapping[str, NDArray[Any]]):
    def __init__(self, core: _core.GgufFile) -> None:
        self._core = core
        self._infos = core.tensors()

    def __getitem__(self, name: str) -> NDArray[Any]:
        kind = self._infos[name][1]
        if kind not in READABLE:
            raise ValueError(f"[gguf] tensor {name!r} has the type {kind}; {', '.join(READABLE)} are read")
        return self._core.tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)


def open_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Maps a GGUF file. ValueError: it is damaged; OSError: it can't be opened."""
    return GgufFile(path)
