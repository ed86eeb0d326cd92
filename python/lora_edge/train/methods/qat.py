"""Training for a file of few bits (Jacob et al. 2018): weights are used as the file will hold them, and learn as if
they weren't rounded (straight-through, Bengio et al. 2013)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...convert.weights import stored_type
from ..network import Linear
from .shaped import Shape, Shaped

KINDS = ("q4_0", "q8_0")
BLOCK = 32  # values that share a scale
CHUNK = 1 << 20  # values rounded at a time


class Qat(Shaped):
    """Options: type ("q4_0" or "q8_0"), of the file that is written; trains ("full", or an adapter, which is merged).

    Every matrix is rounded, as it will be in the file: in blocks, or to float16 where its rows are no multiple of 32
    long. Float32 weights and, of each, the last rounding are held."""

    options = ("type",)

    def shape_of(self, linear: Linear) -> Shape | None:
        kind = self.file_type = str(self.settings.option("type", "q4_0"))
        if kind not in KINDS:
            raise ValueError(f"[train] type {kind!r} is not one of {', '.join(KINDS)}")
        return Rounding(stored_type(kind, (linear.n, linear.k), linear.name.rpartition(".")[0]))

    def _forget(self) -> None:
        for shape in self.shapes:
            if isinstance(shape, Rounding):
                shape.rounded = None

    def after_update(self, step: int) -> None:
        super().after_update(step)
        self._forget()

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self._forget()


class Rounding:
    """w -> w on the grid of a type; to the gradient it is w. Of a weight of its own the result is kept until `rounded`
    is None again; a merged one is made for each use."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rounded: Tensor | None = None

    def __call__(self, w: Tensor) -> Tensor:
        if not w.is_leaf:
            return _straight(w, on_grid(w.detach(), self.kind))
        if self.rounded is None:
            self.rounded = on_grid(w.detach(), self.kind)
        return _straight(w, self.rounded)


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy, None


def _straight(w: Tensor, rounded: Tensor) -> Tensor:
    result: Tensor = _Straight.apply(w, rounded)
    return result


def on_grid(w: Tensor, kind: str) -> Tensor:
    """What a matrix [n, k] means after it was stored as q4_0, q8_0 (k a multiple of 32) or f16: bit for bit."""
    if kind == "f16":
        return w.half().float()
    to_grid = {"q4_0": _q4_0, "q8_0": _q8_0}[kind]
    out = torch.empty_like(w)
    step = max(1, CHUNK // w.shape[1])
    for i in range(0, len(w), step):
        rows = w[i : i + step]
        out[i : i + step] = to_grid(rows.reshape(-1, BLOCK)).view_as(rows)
    return out


def _q4_0(x: Tensor) -> Tensor:
    """Blocks [m, 32]: d = the value of largest size / -8, q = ⌊x / d + 8.5⌋ up to 15; d·(q - 8), d in float16."""
    largest = x.gather(1, x.abs().argmax(dim=1, keepdim=True))
    d = largest / -8
    inverse = torch.where(d.half() == 0, 0.0, 1 / d)
    q = (x * inverse + 8.5).trunc_().clamp_(max=15)
    return (q - 8) * d.half().float()


def _q8_0(x: Tensor) -> Tensor:
    """Blocks [m, 32]: d = largest size / 127, q = x / d rounded, halves away from zero; d·q, d in float16."""
    d = x.abs().amax(dim=1, keepdim=True) / 127
    inverse = torch.where(d.half() == 0, 0.0, 1 / d)
    scaled = x * inverse
    size = scaled.abs()
    whole = size.floor()
    return torch.copysign(whole + (size - whole >= 0.5), scaled) * d.half().float()
