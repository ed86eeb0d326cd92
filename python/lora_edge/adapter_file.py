"""Reading an adapter, from a PEFT folder, an MLX folder or a GGUF file, keyed by the base's tensor names.

Whatever the source, the result is in the base's own layout: the rows of B for the permuted q and k of
architecture "llama" are permuted likewise, the scale is resolved, every shape fits the base.  Nothing is
dropped: a tensor or a setting that cannot be honoured is a ValueError that names it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from . import _core
from .adapter_parts import (
    AdapterFile,
    Array,
    BaseInfo,
    LoraEntry,
    TokenRows,
    Whole,
    check_factors,
    check_wholes,
    packed,
    vector,
)
from .encoder_names import LABELS_KEY, label_names
from .gguf_file import BlockRows, GgufFile, open_gguf
from .mlx_folder import is_mlx, read_mlx
from .peft_folder import is_peft, read_peft
from .quant import to_f32

__all__ = ["AdapterFile", "BaseInfo", "LoraEntry", "TokenRows", "Whole", "adapter_kind", "read_adapter"]


def adapter_kind(path: str | os.PathLike[str]) -> str:
    """ "peft", "mlx" or "gguf", by what is there; a folder that is neither counts as PEFT's, anything else as GGUF.

    ValueError: it is one file of a folder."""
    path = Path(path)
    return "mlx" if is_mlx(path) else "peft" if is_peft(path) else "gguf"


def read_adapter(path: str | os.PathLike[str], arch: str, base: BaseInfo) -> AdapterFile:
    """Read a GGUF adapter file, a PEFT folder or an MLX folder for a base of architecture `arch`.

    The arrays are views of the mapped file where the layout allows it.  ValueError: the file is damaged, is
    for another base (the first tensor that doesn't fit is named), or asks for what is not supported.
    OSError: it cannot be read.
    """
    path, kind = Path(path), adapter_kind(path)
    return {"peft": read_peft, "mlx": read_mlx, "gguf": _read_gguf}[kind](path, arch, base)


def _read_gguf(path: Path, arch: str, base: BaseInfo) -> AdapterFile:
    """llama.cpp's adapter files: scale alpha / r, with r from lora_b, or 1 if alpha is 0 or absent; and the tensors
    beside them that cpp/formats/gguf_lora.h describes."""
    file = open_gguf(path)
    pairs, whole_names, invocation = _core.gguf_lora(file.core, arch)
    entries = {}
    for tensor, a_name, b_name, scale, magnitude_name, bias_name in pairs:
        a, b = _values(file, a_name), _values(file, b_name)
        check_factors(path, base, tensor, a, b)
        vectors = [
            None if name is None else vector(path, tensor, name, file.tensors[name], len(b))
            for name in (magnitude_name, bias_name)
        ]
        entries[tensor] = LoraEntry(packed(a), packed(b), scale, *vectors)
    wholes = {}
    for tensor, weight_name, bias_name in whole_names:
        weight = _values(file, weight_name)
        bias = None if bias_name is None else vector(path, tensor, bias_name, file.tensors[bias_name], len(weight))
        wholes[tensor] = Whole(packed(weight), bias)
    labels = label_names(file.metadata.get(f"{arch}.{LABELS_KEY}", []), f"[gguf] {path}: {arch}.{LABELS_KEY}")
    check_wholes(path, base, wholes, labels)
    return AdapterFile(
        path.stem, "gguf", entries, dict(file.metadata), wholes=wholes, invocation=[int(i) for i in invocation],
        labels=labels,
    )  # fmt: skip


def _values(file: GgufFile, name: str) -> Array:
    """float32, float16 or bfloat16 bits, counted in values."""
    x = file.tensors[name]
    return to_f32(x) if isinstance(x, BlockRows) or x.dtype == np.uint8 else x
