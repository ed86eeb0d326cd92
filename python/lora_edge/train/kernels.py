"""The core's linears as a function that torch differentiates, and the small functions that torch has only in pieces.

A frozen weight stays as it lies in the file: W·x as the runtime makes it (activations in blocks of 8 bits, for weights
in blocks), and dX = dY·W. To the gradient that rounding of x is not there (a straight-through estimate, Bengio et al.
2013).
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .. import _core


class Frozen(torch.autograd.Function):
    """x [..., k] -> W·x [..., n] of each named weight of the core's model; x is not kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, core: _core.Model, names: tuple[str, ...]) -> tuple[Tensor, ...]:
        ctx.core, ctx.names, ctx.shape = core, names, x.shape
        flat = x.detach().reshape(-1, x.shape[-1]).contiguous()
        return tuple(torch.from_numpy(y.reshape(*x.shape[:-1], -1)) for y in core.linear(names, flat.numpy()))

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor, None, None]:
        flat = [dy.detach().reshape(-1, dy.shape[-1]).contiguous().numpy() for dy in dys]
        return torch.from_numpy(ctx.core.input_gradient(ctx.names, flat)).view(ctx.shape), None, None


def frozen(core: _core.Model, names: tuple[str, ...], x: Tensor) -> tuple[Tensor, ...]:
    """W·x of each name. Activations in 8 bits are shared by the names."""
    result: tuple[Tensor, ...] = Frozen.apply(x, core, names)
    return result


class FrozenWithFactors(torch.autograd.Function):
    """x [..., k] -> W·x + s·B(A·x) of each named weight; None for the factors of one that has none. All A's are one
    matrix to their input, y and dX are made in place, and beside x only s·A·x [m, Σ r] is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        core: _core.Model,
        names: tuple[str, ...],
        scales: tuple[float, ...],
        *factors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        flat = x.detach().reshape(-1, x.shape[-1]).contiguous()
        ys = [torch.from_numpy(y) for y in core.linear(names, flat.numpy())]
        ctx.core, ctx.names, ctx.scales, ctx.shape = core, names, scales, x.shape
        ctx.present = [a is not None for a in factors[0::2]]
        a_s, b_s = [a for a in factors[0::2] if a is not None], [b for b in factors[1::2] if b is not None]
        if a_s:
            u = flat @ torch.cat(a_s).T
            for y, scale, b, part in zip(_chosen(ys, ctx.present), _chosen(scales, ctx.present), b_s, _parts(u, b_s)):
                y.addmm_(part.mul_(scale), b.T)
            ctx.save_for_backward(flat, u, *a_s, *b_s)
        return tuple(y.view(*x.shape[:-1], -1) for y in ys)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Any, ...]:
        d_ys = [dy.reshape(-1, dy.shape[-1]).contiguous() for dy in dys]
        dx = None
        if ctx.needs_input_grad[0]:
            dx = torch.from_numpy(ctx.core.input_gradient(ctx.names, [dy.numpy() for dy in d_ys]))
        gradients: list[Tensor | None] = [None] * (2 * len(dys))
        if any(ctx.present):
            flat, u, *factors = ctx.saved_tensors
            a_s, b_s = factors[: len(factors) // 2], factors[len(factors) // 2 :]
            du = torch.empty_like(u)
            chosen = _chosen(d_ys, ctx.present)
            for dy, scale, b, part in zip(chosen, _chosen(ctx.scales, ctx.present), b_s, _parts(du, b_s)):
                torch.mm(dy, b, out=part).mul_(scale)
            if dx is not None:
                dx.addmm_(du, torch.cat(a_s))
            of_a = (du.T @ flat).split([len(a) for a in a_s])
            of_b = [dy.T @ part for dy, part in zip(chosen, _parts(u, b_s))]
            where = [i for i, present in enumerate(ctx.present) if present]
            for i, d_a, d_b in zip(where, of_a, of_b):
                gradients[2 * i : 2 * i + 2] = d_a, d_b
        return (None if dx is None else dx.view(ctx.shape), None, None, None, *gradients)


def _chosen(values: Seq[Any], present: list[bool]) -> list[Any]:
    return [value for value, here in zip(values, present) if here]


def _parts(u: Tensor, b_s: list[Tensor]) -> tuple[Tensor, ...]:
    """The columns of u [m, Σ r] that belong to each B [n, r]."""
    parts: tuple[Tensor, ...] = u.split([b.shape[1] for b in b_s], dim=1)
    return parts


def frozen_with_factors(
    core: _core.Model, names: tuple[str, ...], x: Tensor, factors: list[tuple[Tensor, Tensor, float] | None]
) -> tuple[Tensor, ...]:
    """W·x + s·B(A·x) of each name; factors: (A [r, k], B [n, r], s) or None."""
    scales = tuple(f[2] if f else 0.0 for f in factors)
    tensors = [t for f in factors for t in (f[:2] if f else (None, None))]
    result: tuple[Tensor, ...] = FrozenWithFactors.apply(x, core, names, scales, *tensors)
    return result


class _Rotate(torch.autograd.Function):
    """Its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.cos, ctx.sin, ctx.interleaved = cos, sin, interleaved
        return _rotated(x, cos, sin, 1.0, interleaved)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        return _rotated(dy, ctx.cos, ctx.sin, -1.0, ctx.interleaved), None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float, interleaved: bool) -> Tensor:
    half = cos.shape[-1]
    out = torch.empty_like(x)
    if interleaved:
        parts = [(y[..., 0 : 2 * half : 2], y[..., 1 : 2 * half : 2]) for y in (x, out)]
    else:
        parts = [(y[..., :half], y[..., half : 2 * half]) for y in (x, out)]
    (a, b), (to_a, to_b) = parts
    torch.mul(a, cos, out=to_a).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=to_b).addcmul_(a, sin, value=sign)
    if 2 * half < x.shape[-1]:
        out[..., 2 * half :] = x[..., 2 * half :]
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Rotary positions (Su et al. 2021) of x [b, t, heads, head_dim]; cos, sin [b or 1, t, 1, n_rot / 2]. Pairs are
    (2i, 2i + 1) if interleaved, else (i, i + n_rot / 2)."""
    result: Tensor = _Rotate.apply(x, cos, sin, interleaved)
    return result


class _Swiglu(torch.autograd.Function):
    """Keeps gate and up alone; silu is made again for the gradient."""

    @staticmethod
    def forward(ctx: FunctionCtx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        d_up = torch.nn.functional.silu(gate).mul_(dy)
        d_gate = torch.ops.aten.silu_backward(dy * up, gate)
        return d_gate, d_up


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) ∘ up (Shazeer 2020)."""
    result: Tensor = _Swiglu.apply(gate, up)
    return result
