"""The layers on top of an encoder, the pooler (`cls`) and the one to the labels (`cls.output`), with what adapters say
of them.

A vector per text passes here, so it is numpy's work; the arithmetic is that of PEFT's forward, as in the core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence as Seq
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from .adapter_parts import AdapterFile, LoraEntry, Whole
from .encoder_names import HEAD
from .quant import to_f32

Floats = NDArray[np.float32]
Part = TypeVar("Part")


class Layer(NamedTuple):
    """y = weight [n, k] · x + bias [n], float32."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True)
class HeadPart:
    """What an adapter says of these layers, by tensor name, and how it calls its labels."""

    entries: Mapping[str, LoraEntry] = field(default_factory=dict)
    wholes: Mapping[str, Whole] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)

    @property
    def n_bytes(self) -> int:
        parts = [x for e in self.entries.values() for x in (e.a, e.b, e.bias, e.magnitude)]
        parts += [x for w in self.wholes.values() for x in (w.weight, w.bias)]
        return sum(x.nbytes for x in parts if x is not None)


HeadParts = Seq[tuple[HeadPart, float]]  # of the adapters of a call, with their weights


def split_head(file: AdapterFile) -> tuple[AdapterFile, HeadPart]:
    """The part of an adapter for the core, and that for the head."""
    (entries, head_entries), (wholes, head_wholes) = _split(file.entries), _split(file.wholes)
    return replace(file, entries=entries, wholes=wholes), HeadPart(head_entries, head_wholes, file.labels)


def _split(table: Mapping[str, Part]) -> tuple[dict[str, Part], dict[str, Part]]:
    return {n: x for n, x in table.items() if n not in HEAD}, {n: x for n, x in table.items() if n in HEAD}


def read_layer(tensors: Mapping[str, Any], stem: str, shape: tuple[int | None, int]) -> Layer | None:
    """The layer of a file, of `shape` (n, k), None for any n; None where the file has no such layer. ValueError: it has
    another shape."""
    name = f"{stem}.weight"
    if name not in tensors:
        return None
    weight = to_f32(tensors[name])
    n = weight.shape[0]
    bias = to_f32(tensors[f"{stem}.bias"]) if f"{stem}.bias" in tensors else np.zeros(n, np.float32)
    if weight.ndim != 2 or weight.shape != (shape[0] or n, shape[1]) or bias.shape != (n,):
        raise ValueError(
            f"[model] tensor '{name}' has shape {weight.shape} and its bias {bias.shape}; the model needs "
            f"{(shape[0] or n, shape[1])}"
        )
    return Layer(weight, bias)


def adapted(tensor: str, layer: Layer | None, parts: HeadParts) -> Layer | None:
    """The layer that these adapters replace, where one does. ValueError: two do."""
    found = [part.wholes[tensor] for part, weight in parts if weight and tensor in part.wholes]
    if len(found) > 1:
        raise ValueError(f"two adapters replace {tensor}: run one of them at a time")
    if not found:
        return layer
    weight, bias = to_f32(found[0].weight), found[0].bias
    if bias is None:
        bias = layer.bias if layer is not None else np.zeros(len(weight), np.float32)
    return Layer(weight, bias)


def run(tensor: str, layer: Layer, parts: HeadParts, x: Floats) -> Floats:
    """y [n] of x [k]: the layer with its adapters, in their order."""
    y = layer.weight @ x + layer.bias
    for part, weight in parts:
        if weight and tensor in part.entries:
            y = _with_lora(part.entries[tensor], np.float32(part.entries[tensor].scale * weight), layer, x, y)
    return y


def _with_lora(entry: LoraEntry, scale: np.float32, layer: Layer, x: Floats, y: Floats) -> Floats:
    """y + s·(B(A·x) + its bias), and for DoRA c∘(y - b) + b of that, c = m / ‖W + s·B·A‖ for each output."""
    a, b = to_f32(entry.a), to_f32(entry.b)
    y = y + scale * (b @ (a @ x))
    if entry.bias is not None:
        y = y + scale * entry.bias
    if entry.magnitude is None:
        return y
    c = entry.magnitude / np.linalg.norm(layer.weight + scale * (b @ a), axis=1)
    return np.asarray(c * (y - layer.bias) + layer.bias)
