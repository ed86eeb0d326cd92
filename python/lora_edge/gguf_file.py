"""Opening a GGUF file from Python: the one place that decides which reader does it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class GgufFile(Protocol):
    """What the rest of the package needs of a GGUF reader.

    metadata: key -> int, float, bool, str, numpy array of numbers, or list of str. tensors: name ->
    read-only array in numpy order (n, k): float32, float16, uint16 (bfloat16 bits) or uint8 (raw Q8_0
    blocks, [n, k / 32 * 34]).
    """

    @property
    def metadata(self) -> dict[str, Any]: ...

    @property
    def tensors(self) -> dict[str, NDArray[Any]]: ...


class _ReaderFile:
    def __init__(self, path: Path) -> None:
        import gguf

        reader = gguf.GGUFReader(path)
        self.metadata: dict[str, Any] = {}
        for key, field in reader.fields.items():
            if key.startswith("GGUF."):
                continue
            value = field.contents()
            if isinstance(value, list) and not (value and isinstance(value[0], str)):
                value = np.asarray(value)
            self.metadata[key] = value
        self.tensors: dict[str, NDArray[Any]] = {}
        for tensor in reader.tensors:
            data: NDArray[Any] = tensor.data
            kind = tensor.tensor_type.name
            if kind == "BF16":
                data = data.view(np.uint16)
            elif kind not in ("F32", "F16", "Q8_0"):
                raise ValueError(
                    f"tensor {tensor.name!r} has the type {kind}; F32, F16, BF16 and Q8_0 are read"
                )
            self.tensors[tensor.name] = data


def open_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Map a GGUF file.  ValueError: it is damaged or holds a type that is not read; OSError: it cannot be
    opened."""
    try:
        return _ReaderFile(Path(path))
    except OSError:
        raise
    except Exception as error:  # the reader raises whatever a damaged file provokes
        raise ValueError(f"[gguf] {path}: {error}") from error
