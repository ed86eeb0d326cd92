"""What an adapter is made of, in the layout of the base that it has to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .encoder_names import ENCODER, HEAD, LABELS, family_of
from .gguf_file import GgufFile
from .quant import to_f32

Array = NDArray[Any]
LOOKED_UP = ("position_embd.weight", "token_types.weight")  # matrices of which rows are added, and no linear is made


@dataclass(frozen=True)
class BaseInfo:
    """The base an adapter has to fit: `shapes[tensor] = (n, k)` of its linears and of token_embd (n_vocab,
    n_embd). family: of an encoder, as `encoder_names.family_of` tells it."""

    arch: str
    n_head: int
    n_head_kv: int
    head_dim: int
    shapes: Mapping[str, tuple[int, int]]
    family: str = ""

    @property
    def tied(self) -> bool:
        """Whether the output is the embedding; an encoder has no output."""
        return self.arch != ENCODER and "output.weight" not in self.shapes

    @property
    def n_layer(self) -> int:
        return 1 + max((int(name.split(".")[1]) for name in self.shapes if name.startswith("blk.")), default=-1)

    def shape(self, tensor: str) -> tuple[int, int] | None:
        """(n, k) of a tensor; a tied base has the shape of token_embd.weight as its output.weight."""
        if tensor == "output.weight" and self.tied:
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
        shapes = linears_of({name: tuple(shape) for name, (shape, *_) in file.core.tensors().items()})
        return cls(arch, n_head, n_head_kv, head_dim, shapes, family_of(meta))


def linears_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Those that an adapter may be for: the linears and token_embd."""
    return {name: (s[0], s[1]) for name, s in shapes.items() if len(s) == 2 and name not in LOOKED_UP}


@dataclass(frozen=True)
class LoraEntry:
    """The factors of one tensor: y += scale * b @ (a @ x) with a [r, k], b [n, r].

    For token_embd.weight: x += scale * b @ a[token] with a [n_vocab, r], b [n_embd, r].
    float32, float16, or uint16 that holds bfloat16 bits, per factor.  bias: lora_B's, y += scale * bias.
    magnitude: DoRA's (Liu et al. 2024, arXiv:2402.09353), y = magnitude / |W + scale * b @ a| * (y with this) per
    output.
    """

    a: Array
    b: Array
    scale: float
    magnitude: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None

    @property
    def bf16(self) -> bool:
        """Whether a factor holds bfloat16 bits (the one that is uint16)."""
        return self.a.dtype == np.uint16 or self.b.dtype == np.uint16


@dataclass(frozen=True)
class Whole:
    """A trained weight [n, k] in the place of the base's, and its bias [n] where the base has one."""

    weight: Array
    bias: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class TokenRows:
    """Trained rows of an embedding: row ids[i] becomes rows[i], rows [len(ids), n_embd]."""

    ids: list[int]
    rows: Array


@dataclass(frozen=True)
class AdapterFile:
    """name: of the file or folder; kind: "peft", "mlx" or "gguf"; entries by GGUF tensor name; config: the
    source's metadata.

    wholes and token_rows by GGUF tensor name; invocation: aLoRA's tokens (Greenewald et al. 2025, arXiv:2504.12397),
    from whose last occurrence in a prompt on the adapter is active; none: always. labels: how the labels that it brings
    are called; none: it brings none, or doesn't say.

    base_copies: whole weights of the base that the file carries along (PEFT does so when it adapts an
    embedding), by GGUF tensor name, (n, k).  They are of the base's shape; whoever has the base can check
    that they equal it.
    """

    name: str
    kind: str
    entries: dict[str, LoraEntry]
    config: dict[str, Any]
    base_copies: dict[str, Array] = field(default_factory=dict)
    wholes: dict[str, Whole] = field(default_factory=dict)
    token_rows: dict[str, TokenRows] = field(default_factory=dict)
    invocation: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    @property
    def beyond_factors(self) -> str:
        """What it has that is not y += scale * b @ (a @ x), with an example; empty for plain LoRA."""
        if self.invocation:
            return "invocation tokens (aLoRA)"
        for tensor, entry in self.entries.items():
            if entry.magnitude is not None:
                return f"a magnitude of {tensor} (DoRA)"
            if entry.bias is not None:
                return f"a bias in lora_B of {tensor}"
        for name in self.wholes:
            return f"a whole {name} (modules_to_save)"
        for name in self.token_rows:
            return f"trained rows of {name} (trainable_token_indices)"
        return ""


def check_factors(path: Path, base: BaseInfo, tensor: str, a: Array, b: Array) -> None:
    """ValueError unless the factors are matrices of one rank whose product has the shape of the base's tensor."""
    embedding = tensor == "token_embd.weight"
    if a.ndim != 2 or b.ndim != 2 or a.shape[1 if embedding else 0] != b.shape[1] or not b.shape[1]:
        raise ValueError(
            f"[adapter] {path}: {tensor[:120]}: factors of shapes {a.shape} and {b.shape} have no common rank"
        )
    shape = (a.shape[0], b.shape[0]) if embedding else (b.shape[0], a.shape[1])
    check_shape(path, base, tensor, shape)


def check_shape(path: Path, base: BaseInfo, tensor: str, shape: tuple[int, ...]) -> None:
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


def check_wholes(path: Path, base: BaseInfo, wholes: Mapping[str, Whole], labels: list[str]) -> None:
    """ValueError unless they have the shapes of the base's tensors; labels that a base has none of may be any. labels:
    their names, if they have any."""
    n_embd = (base.shape("token_embd.weight") or (0, 0))[1]
    for tensor, whole in wholes.items():
        shape = whole.weight.shape
        new = tensor in (HEAD if base.arch == ENCODER else (LABELS,)) and base.shape(tensor) is None
        if not new or len(shape) != 2 or shape[1] != n_embd or (tensor != LABELS and shape[0] != n_embd):
            check_shape(path, base, tensor, shape)
    if base.arch == ENCODER and LABELS in wholes and HEAD[0] not in wholes and base.shape(HEAD[0]) is None:
        raise ValueError(
            f"[adapter] {path} brings labels ({LABELS}), which stand on a pooler: the base has none ({HEAD[0]})"
        )
    if labels and (LABELS not in wholes or len(wholes[LABELS].weight) != len(labels)):
        raise ValueError(f"[adapter] {path} names {len(labels)} labels, and has not as many ({LABELS})")


def packed(x: Array) -> Array:
    """The same values, C-contiguous and aligned; a copy only if they aren't yet."""
    out: Array = np.require(x, requirements=["C", "A"])
    return out


def vector(path: Path, tensor: str, what: str, x: Array, n: int) -> NDArray[np.float32]:
    """A magnitude or bias as float32 [n]. ValueError: another shape."""
    made = to_f32(x)
    if made.shape != (n,):
        raise ValueError(f"[adapter] {path}: {tensor[:120]}: {what} of shape {made.shape} for {n} outputs")
    return made
