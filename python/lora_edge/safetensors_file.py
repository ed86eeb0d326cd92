"""A strict, lazy reader of safetensors files.

Format (https://github.com/huggingface/safetensors): uint64 length n, n bytes of JSON {name: {"dtype",
"shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}, then the data, little-endian, which the
tensors cover without gap or overlap.

Why not the `safetensors` package: its numpy side has no bfloat16 (the most common type of published
weights), and its only raw access, `deserialize`, wants the whole file as one bytes object.  Here tensors
are views of a read-only map, bfloat16 as uint16 bits, and opening a file costs the parsing of its header.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_HEADER = 2 << 20  # bytes, some 20,000 tensors; parsed, it takes 20 times as much memory
MAX_DIMS = 8
MAX_NAME = 1024

# Names of the format -> numpy; BF16 as raw bits.
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "<i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "<u1",
}  # fmt: skip


class TensorInfo(NamedTuple):
    """dtype as the format names it, shape, and the bytes [begin, end) counted from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """`info[name]` describes each tensor, `array(name)` is a read-only view of its values (no copy).

    The map lives as long as the object or any array does.  ValueError: the file breaks the format (the
    message names the file and the tensor).  OSError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with open(self.path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(8)
            n = int.from_bytes(head, "little")
            if len(head) < 8 or n < 2 or n > size - 8 or n > MAX_HEADER:
                self._fail(f"a header of {n} bytes does not fit a file of {size} bytes")
            header = file.read(n)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.metadata, self.info = self._parse(header, 8 + n, len(self._map))

    def __contains__(self, name: str) -> bool:
        return name in self.info

    def __iter__(self) -> Iterator[str]:
        return iter(self.info)

    def array(self, name: str) -> NDArray[Any]:
        """Values of one tensor, shaped; uint16 bits for BF16.  KeyError: no such tensor."""
        dtype, shape, begin, end = self.info[name]
        flat = np.frombuffer(self._map, dtype=np.uint8, count=end - begin, offset=begin)
        return flat.view(DTYPES[dtype]).reshape(shape)

    def release(self) -> None:
        """Lets go of the pages that were read, which otherwise count as this process's memory; arrays stay valid."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _fail(self, what: str) -> None:
        raise ValueError(f"[safetensors] {self.path}: {what}")

    def _parse(self, header: bytes, start: int, size: int) -> tuple[dict[str, str], dict[str, TensorInfo]]:
        try:
            table = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"[safetensors] {self.path}: the header is not valid JSON: {error}") from None
        if not isinstance(table, dict):
            self._fail("the header is not a JSON object")
        metadata = table.pop("__metadata__", None)
        metadata = {} if metadata is None else metadata  # MLX writes null
        if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
            self._fail("__metadata__ is not a map of strings")
        info = {name: self._entry(name, entry, start, size) for name, entry in table.items()}
        position = start
        for name, tensor in sorted(info.items(), key=lambda item: (item[1].begin, item[1].end)):
            if tensor.begin != position:
                self._fail(f"tensor {name!r} starts at byte {tensor.begin}, where byte {position} is due")
            position = tensor.end
        if position != size:
            self._fail(f"the tensors end at byte {position} of {size}")
        return metadata, info

    def _entry(self, name: str, entry: object, start: int, size: int) -> TensorInfo:
        label = repr(name[:80])
        if len(name) > MAX_NAME or not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            self._fail(f"tensor {label} is not described by dtype, shape and data_offsets")
        assert isinstance(entry, dict)
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            self._fail(f"tensor {label} has the type {str(dtype)[:40]!r}; known are {', '.join(DTYPES)}")
        if not _is_counts(shape) or len(shape) > MAX_DIMS:
            self._fail(f"tensor {label} has an impossible shape")
        if not _is_counts(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= size - start:
            self._fail(f"tensor {label} has data_offsets outside of the file")
        if math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize != offsets[1] - offsets[0]:
            self._fail(f"tensor {label} of shape {shape} and type {dtype} does not fill its {offsets} bytes")
        return TensorInfo(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _is_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 1 << 60 for v in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table
