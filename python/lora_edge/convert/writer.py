"""Writing a GGUF file tensor by tensor: the header first, then each array as it is made, then the rename."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from numpy.typing import NDArray

from .outputs import write_file
from .weights import stored_shape

Progress = Callable[[int, int, str], None]  # bytes written, bytes in all, name of the tensor just written

TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}


class Planned(NamedTuple):
    """One tensor to write: `make()` gives it in type `kind`, whole or in chunks of rows; shape (n, k) or (n,) is
    counted in values."""

    name: str
    kind: str
    shape: tuple[int, ...]
    make: Callable[[], NDArray[Any] | Iterator[NDArray[Any]]]

    @property
    def n_bytes(self) -> int:
        shape, dtype = stored_shape(self.kind, self.shape)
        return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize

    def chunks(self) -> Iterator[NDArray[Any]]:
        made = self.make()
        yield from [made] if isinstance(made, np.ndarray) else made


def planned_whole(name: str, x: NDArray[Any]) -> Planned:
    """An array as it is: float32, float16, or uint16 for bfloat16 bits."""
    return Planned(name, {"float32": "f32", "float16": "f16", "uint16": "bf16"}[x.dtype.name], x.shape, lambda: x)


def check_type(kind: str, allowed: Iterable[str] = tuple(TYPES)) -> None:
    if kind not in allowed:
        raise ValueError(f"[convert] type {kind!r} is not one of {', '.join(allowed)}")


def write_gguf(
    out: Path,
    arch: str,
    metadata: Mapping[str, tuple[Any, gguf.GGUFValueType]],
    tensors: list[Planned],
    progress: Progress | None = None,
) -> None:
    """Write `out`, which appears when it is complete; whatever interrupts leaves nothing behind.

    metadata: key -> (value, type); in a list of str, int (int32) or float (float32) the elements tell; an
    array holds uint32.
    """
    with write_file(out) as temporary:
        writer = gguf.GGUFWriter(temporary, arch)
        try:
            _write(writer, metadata, tensors, progress)
            writer.flush()
            assert writer.fout is not None
            os.fsync(writer.fout[0].fileno())
        finally:
            writer.close()


def _write(
    writer: gguf.GGUFWriter,
    metadata: Mapping[str, tuple[Any, gguf.GGUFValueType]],
    tensors: list[Planned],
    progress: Progress | None,
) -> None:
    for key, (value, kind) in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, list(value))
        elif isinstance(value, np.ndarray):
            writer.add_key_value(key, value.tolist(), kind, sub_type=gguf.GGUFValueType.UINT32)
        else:
            writer.add_key_value(key, value, kind)
    total = 0
    for tensor in tensors:
        shape, dtype = stored_shape(tensor.kind, tensor.shape)
        number_format = gguf.GGMLQuantizationType[tensor.kind.upper()]
        writer.add_tensor_info(tensor.name, shape, dtype, tensor.n_bytes, raw_dtype=number_format)
        total += tensor.n_bytes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    file, done = writer.fout[0], 0
    writer.write_padding(file, file.tell())
    for tensor in tensors:
        for chunk in tensor.chunks():
            file.write(np.ascontiguousarray(chunk).data)
        writer.write_padding(file, tensor.n_bytes)
        done += tensor.n_bytes
        if progress is not None:
            progress(done, total, tensor.name)
