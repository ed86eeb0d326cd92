"""Writing a GGUF file tensor by tensor: the header first, then each array as it is made, then the rename."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from numpy.typing import NDArray

from .weights import stored_shape

Progress = Callable[[int, int, str], None]  # bytes written, bytes in all, name of the tensor just written

TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


class Planned(NamedTuple):
    """One tensor to write: `make()` gives it in type `kind`; shape (n, k) or (n,) is counted in values."""

    name: str
    kind: str
    shape: tuple[int, ...]
    make: Callable[[], NDArray[Any]]


def check_type(kind: str, allowed: Iterable[str] = tuple(TYPES)) -> None:
    if kind not in allowed:
        raise ValueError(f"[convert] type {kind!r} is not one of {', '.join(allowed)}")


def check_out(out: Path) -> Path:
    """Where `out` leads, links followed. ValueError: something that is no regular file is there."""
    target = out.resolve()
    if target.exists() and not target.is_file():
        raise ValueError(f"[convert] '{out}' is not a regular file: give the name of a file to write")
    return target


def write_gguf(
    out: Path,
    arch: str,
    metadata: Mapping[str, tuple[Any, gguf.GGUFValueType]],
    tensors: list[Planned],
    progress: Progress | None = None,
) -> None:
    """Write `out` under a temporary name beside it and rename; whatever interrupts leaves nothing behind.

    metadata: key -> (value, type); in a list of str, int (int32) or float (float32) the elements tell.
    """
    out = check_out(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent)
    os.close(handle)
    writer = gguf.GGUFWriter(temporary, arch)
    try:
        _write(writer, metadata, tensors, progress)
        writer.close()
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, out)
    except BaseException:
        writer.close()
        os.unlink(temporary)
        raise


def _write(
    writer: gguf.GGUFWriter,
    metadata: Mapping[str, tuple[Any, gguf.GGUFValueType]],
    tensors: list[Planned],
    progress: Progress | None,
) -> None:
    for key, (value, kind) in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, list(value))
        else:
            writer.add_key_value(key, value, kind)
    total = 0
    for tensor in tensors:
        shape, dtype = stored_shape(tensor.kind, tensor.shape)
        n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        writer.add_tensor_info(tensor.name, shape, dtype, n_bytes, raw_dtype=TYPES[tensor.kind][0])
        total += n_bytes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    done = 0
    for tensor in tensors:
        array = tensor.make()
        writer.write_tensor_data(array)
        done += array.nbytes
        if progress is not None:
            progress(done, total, tensor.name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
