"""Reading a LoRA adapter, from a PEFT folder or a GGUF adapter file, as factors keyed by the base's tensor
names.

Whatever the source, the result is in the base's own layout: the rows of B for the permuted q and k of
architecture "llama" are permuted likewise, the scale is resolved, every shape fits the base.  Nothing is
dropped: a tensor or a setting that cannot be honoured is a ValueError that names it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from .gguf_file import GgufFile, open_gguf
from .hf_names import gguf_stem, is_permuted, permute_rows
from .peft_config import PeftConfig
from .quant import Q8_0_BLOCK, Q8_0_BYTES, dequantize_q8_0
from .safetensors_file import SafetensorsFile

Array = NDArray[Any]


@dataclass(frozen=True)
class BaseInfo:
    """The base an adapter has to fit: `shapes[tensor] = (n, k)` of its linears and of token_embd (n_vocab,
    n_embd)."""

    arch: str
    n_head: int
    n_head_kv: int
    head_dim: int
    shapes: Mapping[str, tuple[int, int]]

    def shape(self, tensor: str) -> tuple[int, int] | None:
        """(n, k) of a tensor; a tied base has the shape of token_embd.weight as its output.weight."""
        if tensor == "output.weight" and tensor not in self.shapes:
            tensor = "token_embd.weight"
        return self.shapes.get(tensor)

    @classmethod
    def from_gguf(cls, file: GgufFile) -> BaseInfo:
        """From a base's GGUF file.  ValueError: a key is missing."""
        meta = file.metadata
        try:
            arch = str(meta["general.architecture"])
            n_head, n_embd = int(meta[f"{arch}.attention.head_count"]), int(meta[f"{arch}.embedding_length"])
            n_head_kv = int(meta.get(f"{arch}.attention.head_count_kv", n_head))
            head_dim = int(meta.get(f"{arch}.attention.key_length", n_embd // max(n_head, 1)))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"[gguf] not a base model: {error}") from None
        shapes = {}
        for name, array in file.tensors.items():
            if array.ndim == 2:
                k = array.shape[1] // Q8_0_BYTES * Q8_0_BLOCK if array.dtype == np.uint8 else array.shape[1]
                shapes[name] = (array.shape[0], k)
        return cls(arch, n_head, n_head_kv, head_dim, shapes)


@dataclass(frozen=True)
class LoraEntry:
    """The factors of one tensor: y += scale * b @ (a @ x) with a [r, k], b [n, r].

    For token_embd.weight: x += scale * b @ a[token] with a [n_vocab, r], b [n_embd, r].
    float32, float16, or uint16 that holds bfloat16 bits, per factor.
    """

    a: Array
    b: Array
    scale: float

    @property
    def bf16(self) -> bool:
        """Whether a factor holds bfloat16 bits (the one that is uint16)."""
        return self.a.dtype == np.uint16 or self.b.dtype == np.uint16


@dataclass(frozen=True)
class AdapterFile:
    """name: of the file or folder; kind: "peft" or "gguf"; entries by GGUF tensor name; config: the
    source's metadata.

    base_copies: whole weights of the base that the file carries along (PEFT does so when it adapts an
    embedding), by GGUF tensor name, (n, k).  They are of the base's shape; whoever has the base can check
    that they equal it.
    """

    name: str
    kind: str
    entries: dict[str, LoraEntry]
    config: dict[str, Any]
    base_copies: dict[str, Array] = field(default_factory=dict)


def read_adapter(path: str | os.PathLike[str], arch: str, base: BaseInfo) -> AdapterFile:
    """Read a GGUF adapter file or a PEFT folder for a base of architecture `arch`.

    The arrays are views of the mapped file where the layout allows it.  ValueError: the file is damaged, is
    for another base (the first tensor that doesn't fit is named), or asks for what is not supported.
    OSError: it cannot be read.
    """
    path = Path(path)
    return _read_peft(path, arch, base) if is_peft(path) else _read_gguf(path, arch, base)


def is_peft(path: Path) -> bool:
    """Whether it is a PEFT folder; else it has to be a GGUF file. ValueError: it is a file of such a folder."""
    if path.name in ("adapter_config.json", "adapter_model.safetensors") and path.is_file():
        raise ValueError(f"[peft] {path} is one file of a PEFT adapter: give its folder, '{path.parent}'")
    return path.is_dir()


_LINEAR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.([^.]+))?\.weight")
_EMBEDDING = re.compile(r"base_model\.model\.(.+)\.lora_embedding_([AB])(?:\.([^.]+))?")
_COPY = re.compile(r"base_model\.model\.(model\.embed_tokens|lm_head)(?:\.base_layer)?\.weight")


def _read_peft(folder: Path, arch: str, base: BaseInfo) -> AdapterFile:
    config_path, weights_path = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if not config_path.is_file():
        raise FileNotFoundError(f"{folder} is not a PEFT adapter: it has no adapter_config.json")
    config = PeftConfig(config_path)
    if not weights_path.is_file():
        raise FileNotFoundError(f"{folder} has no adapter_model.safetensors (other formats are not read)")
    file = SafetensorsFile(weights_path)

    pairs: dict[str, dict[str, str]] = {}  # module -> {"A": key, "B": key}
    copies: dict[str, Array] = {}
    adapter_names = set()
    for key in file:
        copy = _COPY.fullmatch(key)
        if copy:
            tensor = f"{gguf_stem(copy.group(1))}.weight"
            _check_shape(folder, base, tensor, file.info[key].shape)
            copies[tensor] = _factor(file, key, folder)
            continue
        found = _LINEAR.fullmatch(key) or _EMBEDDING.fullmatch(key)
        if not found or (".lora_embedding_" in key) != (found.group(1) == "model.embed_tokens"):
            raise ValueError(f"[peft] {folder}: the tensor {key[:120]!r} is not supported")
        module, side, adapter_name = found.groups()
        adapter_names.add(adapter_name)
        pair = pairs.setdefault(module, {})
        if side in pair or len(adapter_names) > 1:
            raise ValueError(f"[peft] {folder}: more than one adapter in the file (tensor {key[:120]!r})")
        pair[side] = key

    entries = {}
    for module, pair in pairs.items():
        for side, other in (("A", "B"), ("B", "A")):
            if side not in pair:
                raise ValueError(f"[peft] {folder}: {pair[other]!r} has no lora_{side} beside it")
        stem = gguf_stem(module)
        if stem is None:
            raise ValueError(f"[peft] {folder}: the module {module[:120]!r} is not one of this kind of model")
        tensor = f"{stem}.weight"
        a, b = (_factor(file, pair[side], folder) for side in "AB")
        if stem == "token_embd":
            a = a.T
        _check_factors(folder, base, tensor, a, b)
        r, expected = b.shape[1], config.rank(module)
        if r != expected:
            raise ValueError(f"[peft] {folder}: {module} has rank {r}, adapter_config.json says {expected}")
        if is_permuted(arch, stem):
            b = permute_rows(b, base.n_head if stem.endswith("attn_q") else base.n_head_kv)
        entries[tensor] = LoraEntry(_packed(a), _packed(b), config.scale(module))
    if not entries:
        raise ValueError(f"[peft] {folder}: the adapter holds no LoRA tensors")
    return AdapterFile(folder.resolve().name, "peft", entries, config.fields, copies)


def _factor(file: SafetensorsFile, key: str, folder: Path) -> Array:
    """A LoRA factor, or a copy of a base weight, as float32, float16 or bfloat16 bits."""
    dtype = file.info[key].dtype
    if dtype not in ("F32", "F16", "BF16"):
        raise ValueError(f"[peft] {folder}: {key!r} has the type {dtype}; F32, F16 and BF16 are read")
    return file.array(key)


def _read_gguf(path: Path, arch: str, base: BaseInfo) -> AdapterFile:
    """llama.cpp's adapter files: scale alpha / r, with r from lora_b, or 1 if alpha is 0 or absent."""
    file = open_gguf(path)
    entries = {}
    for tensor, *names, scale in _core.gguf_lora(file.core, arch):
        a, b = (dequantize_q8_0(x) if x.dtype == np.uint8 else x for x in map(file.tensors.__getitem__, names))
        _check_factors(path, base, tensor, a, b)
        entries[tensor] = LoraEntry(_packed(a), _packed(b), scale)
    return AdapterFile(path.stem, "gguf", entries, dict(file.metadata))


def _check_factors(path: Path, base: BaseInfo, tensor: str, a: Array, b: Array) -> None:
    """The factors are matrices of one rank whose product has the shape of the base's tensor."""
    embedding = tensor == "token_embd.weight"
    if a.ndim != 2 or b.ndim != 2 or a.shape[1 if embedding else 0] != b.shape[1] or not b.shape[1]:
        raise ValueError(
            f"[adapter] {path}: {tensor[:120]}: factors of shapes {a.shape} and {b.shape} have no common rank"
        )
    shape = (a.shape[0], b.shape[0]) if embedding else (b.shape[0], a.shape[1])
    _check_shape(path, base, tensor, shape)


def _check_shape(path: Path, base: BaseInfo, tensor: str, shape: tuple[int, ...]) -> None:
    expected = base.shape(tensor)
    if expected is None:
        raise ValueError(
            f"[adapter] {path} is for another base: it adapts {tensor[:120]!r} "
            f"of shape {shape}, which the base does not have"
        )
    if tuple(expected) != shape:
        raise ValueError(
            f"[adapter] {path} is for another base: "
            f"{tensor} is {shape} in the adapter and {tuple(expected)} in the base"
        )


def _packed(x: Array) -> Array:
    """The same values, C-contiguous and aligned; a copy only if they aren't yet."""
    packed: Array = np.require(x, requirements=["C", "A"])
    return packed
