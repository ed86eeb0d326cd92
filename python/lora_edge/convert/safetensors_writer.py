"""Writing safetensors files: adapters whole, models tensor by tensor in shards, as transformers names and lists them.

For the format, and for why not by its package, see safetensors_file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence as Seq
from pathlib import Path

import numpy as np

from .weights import Array
from .writer import Planned, Progress, planned_whole

DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
MAX_SHARD = 5_000_000_000  # bytes


def write_safetensors(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """One file of arrays, sorted by name: float32, float16, or uint16 for bfloat16 bits."""
    _write(path, [planned_whole(name, tensors[name]) for name in sorted(tensors)], metadata)


def write_shards(
    folder: Path, tensors: list[Planned], max_shard: int = MAX_SHARD, progress: Progress | None = None
) -> None:
    """model.safetensors in `folder`, or model-0000i-of-0000n.safetensors and their index where it would be larger than
    `max_shard` bytes."""
    shards: list[list[Planned]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.n_bytes > max_shard:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.n_bytes
    n, done, total = len(shards), 0, sum(tensor.n_bytes for tensor in tensors)

    def tell(tensor: Planned) -> None:
        nonlocal done
        done += tensor.n_bytes
        if progress is not None:
            progress(done, total, tensor.name)

    names = [f"model-{i + 1:05}-of-{n:05}.safetensors" if n > 1 else "model.safetensors" for i in range(n)]
    for name, shard in zip(names, shards, strict=True):
        _write(folder / name, shard, {"format": "pt"}, tell)
    if n > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        write_json(
            folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
        )


def write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write(
    path: Path, tensors: Seq[Planned], metadata: Mapping[str, str], tell: Callable[[Planned], None] | None = None
) -> None:
    """tell: called after each tensor."""
    with open(path, "wb") as file:
        file.write(_header(tensors, metadata))
        for tensor in tensors:
            for chunk in tensor.chunks():
                file.write(np.ascontiguousarray(chunk).data)
            if tell is not None:
                tell(tensor)
        file.flush()
        os.fsync(file.fileno())


def _header(tensors: Seq[Planned], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for tensor in tensors:
        span = [at, at + tensor.n_bytes]
        entries[tensor.name] = {"dtype": DTYPES[tensor.kind], "shape": list(tensor.shape), "data_offsets": span}
        at += tensor.n_bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data then begins at a multiple of 8
    return len(text).to_bytes(8, "little") + text
