"""The processes of a run: one, or those that torchrun started (gloo), each with its part of every batch."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


class Group:
    """rank of size processes; sums go over all."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.size > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")
            atexit.register(_leave)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        if self.size == 1:
            return values
        x = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(x)
        return [float(v) for v in x]

    def sum_gradients(self, tensors: Iterable[Tensor]) -> None:
        """All gradients in one message; a tensor that had none in any process has zeros."""
        if self.size == 1:
            return
        tensors = list(tensors)
        flat = torch.cat([(torch.zeros_like(x) if x.grad is None else x.grad).reshape(-1) for x in tensors])
        dist.all_reduce(flat)
        at = 0
        for x in tensors:
            x.grad = flat[at : at + x.numel()].view_as(x).clone()
            at += x.numel()

    def agree(self, flag: bool) -> bool:
        """Whether any process says so."""
        return self.sum([float(flag)])[0] > 0

    def wait(self) -> None:
        if self.size > 1:
            dist.barrier()


def _leave() -> None:
    """Gloo's threads use Python: they have to end before it does."""
    if dist.is_initialized():
        dist.destroy_process_group()
