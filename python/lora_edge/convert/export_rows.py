"""The rows of a GGUF file's tensors, and the type that they get in a folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import gguf
import numpy as np

from ..gguf_file import BLOCKS, READABLE, GgufFile
from ..quant import to_f32
from .weights import Array
from .writer import check_type

TORCH_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def kind_of(file: GgufFile, wanted: str | None) -> str:
    """The type asked for, or the embedding's; f16 for quantised ones. ValueError: it is none of a folder's, or there is
    no embedding."""
    check_type(wanted or "f32", TORCH_DTYPES)
    embedding = file.core.tensors().get("token_embd.weight")
    if embedding is None:
        raise ValueError(f"[export] {file.core.path}: tensor 'token_embd.weight' is missing")
    own = embedding[1].lower()
    return wanted or (own if own in TORCH_DTYPES else "f16")


class Rows:
    """Rows of a file's tensors as float32, of every type that gguf-py dequantises."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self.types = {name: info[1] for name, info in file.core.tensors().items()}

    @cached_property
    def _reader(self) -> dict[str, gguf.ReaderTensor]:
        return {tensor.name: tensor for tensor in gguf.GGUFReader(self._file.core.path).tensors}

    def of(self, name: str) -> Callable[[slice], Array]:
        """A function that gives a range of rows."""
        if self.types[name] in READABLE + BLOCKS:
            return lambda rows: to_f32(self._file.tensors[name][rows])
        tensor = self._reader[name]
        return lambda rows: np.asarray(gguf.dequantize(tensor.data[rows], tensor.tensor_type))
