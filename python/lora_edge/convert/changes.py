"""What happens to a weight between transformers and GGUF: each change with its inverse, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..hf_names import permute_rows, unpermute_rows
from ..quant import to_f32
from .weights import CHUNK, Array, convert


def gguf_rows(x: Array, change: str, head_dim: int, kind: str, name: str) -> Iterator[Array]:
    """The tensor that transformers stores as `x`, in GGUF's layout and stored type `kind`, in chunks of whole rows.

    "permute": rows of q and k as GGUF's "llama" orders them (`hf_names.permute_rows`).  "transpose": transformers'
    Conv1D keeps [in, out].  "plus_one": gemma's norms multiply by 1 + w, GGUF stores that sum.
    """
    if change == "transpose" and x.ndim == 2:
        x = x.T
    for part in _chunks(x, head_dim):
        if change == "permute":
            part = permute_rows(part, part.shape[0] // head_dim)
        elif change == "plus_one":
            part = to_f32(part) + np.float32(1)
        yield convert(part, kind, name)


def hf_rows(
    read: Callable[[slice], Array], shape: tuple[int, ...], change: str, head_dim: int, kind: str, name: str
) -> Iterator[Array]:
    """The inverse: `read` gives rows of the tensor of `shape` in GGUF's layout; chunks in transformers' layout."""
    if len(shape) == 1 or change == "transpose":
        x = read(slice(None))
        parts = _chunks(x.T if len(shape) == 2 else x, 1)
    else:
        parts = (read(rows) for rows in _ranges(shape, head_dim))
    for part in parts:
        if change == "permute":
            part = unpermute_rows(part, part.shape[0] // head_dim)
        elif change == "plus_one":
            part = to_f32(part) - np.float32(1)
        yield convert(part, kind, name)


def _chunks(x: Array, head_dim: int) -> Iterator[Array]:
    return iter([x]) if x.ndim == 1 else (x[rows] for rows in _ranges(x.shape, head_dim))


def _ranges(shape: tuple[int, ...], head_dim: int) -> Iterator[slice]:
    """Whole heads of rows, about CHUNK values at a time."""
    step = max(1, CHUNK // max(1, shape[1]) // head_dim) * head_dim
    return (slice(start, start + step) for start in range(0, shape[0], step))
