"""AdamW with both states in 8 bits, in blocks of 256 (Dettmers et al. 2022, arXiv:2110.02861): bitsandbytes, in pieces.

bitsandbytes widens the states of a whole tensor for its step, and a large vocabulary's embedding would take back what 8
bits save. So it is given views of a tensor, one after another; they hold whole blocks.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from . import lean

BLOCK = 256  # weights that share a scale
PIECE = 1 << 22  # weights of a view at most: 80 MB while they take their step


def need_bitsandbytes() -> None:
    """RuntimeError: it isn't installed."""
    if find_spec("bitsandbytes") is None:
        raise RuntimeError("[train] --optimizer adamw_8bit needs bitsandbytes: pip install 'lora_edge[train,8bit]'")


class AdamW8bit:
    """As an optimiser of torch to the loop: param_groups, step, state_dict, load_state_dict. Groups: [{"params", "lr",
    ...}]. What has fewer than 4,096 weights keeps its states in float32.

    RuntimeError: bitsandbytes isn't installed.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, weight_decay: float) -> None:
        need_bitsandbytes()
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # what it says of kernels is of others than these
        from bitsandbytes.optim import AdamW8bit as Whole

        self.param_groups: list[dict[str, Any]] = [{"lr": lr, **group} for group in groups]
        parts = [
            {**group, "params": [piece for x in group["params"] for piece in _pieces(x.detach().view(-1))]}
            for group in self.param_groups
        ]
        self.whole = Whole(parts, lr=lr, weight_decay=weight_decay)

    def step(self) -> None:
        for group, parts in zip(self.param_groups, self.whole.param_groups):
            parts["lr"] = group["lr"]
            gradients = [view for x in group["params"] for view in _gradients(x)]
            for piece, gradient in zip(parts["params"], gradients):
                piece.grad = gradient
        lean.step(self.whole)
        lean.forget_gradients(self.whole)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.whole.state_dict())

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.whole.load_state_dict(state)


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    """Views [..] of x, all of about one size; whole blocks but for the last."""
    n = -(-x.numel() // PIECE)
    size = -(-x.numel() // (n * BLOCK)) * BLOCK
    pieces: tuple[Tensor, ...] = x.reshape(-1).split(size)
    return pieces


def _gradients(x: Tensor) -> tuple[Tensor | None, ...]:
    """Of its pieces."""
    return (None,) * len(_pieces(x.detach())) if x.grad is None else _pieces(x.grad)
