"""Memory that torch takes only where it is asked for: its compiler, and what a layer keeps for the gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """torch's, or what steps like one."""

    param_groups: list[dict[str, Any]]

    def step(self) -> Any: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


def leave_compiler_out() -> None:
    """Optimisers import torch's compiler, 80 MB and seconds, to say that it shall not compile them. Here they are told
    beforehand; a torch that asks in another way imports it."""
    for name in ("add_param_group", "state_dict", "load_state_dict"):
        method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if method is not None and not hasattr(method, "__dynamo_disable"):
            method.__dynamo_disable = method


def step(optimizer: Optimizer) -> None:
    """optimizer.step() without hooks, the compiler's among them."""
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)


def forget_gradients(optimizer: Optimizer) -> None:
    """optimizer.zero_grad()."""
    for group in optimizer.param_groups:
        for x in group["params"]:
            x.grad = None


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, dy: Tensor) -> Tensor:
        ctx.dy = dy
        return y.new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        return ctx.dy, None


def send_back(y: Tensor, dy: Tensor) -> None:
    """y.backward(dy) for a dy of y's shape. torch would compare the shapes symbolically and import sympy: 35 MB."""
    with torch.enable_grad():  # a gradient may be made inside another one
        _Given.apply(y, dy).backward()


class _Again(torch.autograd.Function):
    """Keeps x alone; run(x) is made a second time for the gradient, with the same random numbers."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], x: Tensor, _: Tensor) -> Tensor:
        ctx.run, ctx.random = run, torch.get_rng_state()
        ctx.save_for_backward(x)
        with torch.enable_grad():  # by which a layer knows that it is training
            return run(x.detach()).detach()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor | None, None]:
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_(ctx.needs_input_grad[1])
        now = torch.get_rng_state()
        torch.set_rng_state(ctx.random)
        with torch.enable_grad():
            y = ctx.run(x)
        torch.set_rng_state(now)
        send_back(y, dy)
        return None, x.grad, None


def again(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """run(x) without what it keeps (Chen et al. 2016). What trains inside gets its gradient, also where x wants none.
    torch.utils.checkpoint does the same, and imports the compiler."""
    result: Tensor = _Again.apply(run, x, torch.empty(0, requires_grad=True))
    return result
