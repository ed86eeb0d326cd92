"""Pruning by magnitude, more and more while the rest learns to do without (Zhu & Gupta 2017, arXiv:1710.01878)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..network import Linear, Network
from ..settings import Settings
from .shaped import Shape, Shaped
from .units import STRUCTURES, Ffn, Heads

ALL = "weights"  # each weight by itself


class Prune(Shaped):
    """Options: sparsity (0.5), the share of what is pruned that is zero in the end. structure: "weights", each by its
    size among those of its matrix; "heads" or "ffn", whole attention heads or neurons of the feed-forward by the norm
    of all their weights among those of their layer; "structured", both. begin (0) and end (0.5): shares of the run
    between which the sparsity rises as s·(1 - (1 - t)³); what is left learns all the time. every: steps between two
    prunings (a hundredth of the run). trains ("full", or an adapter, which is merged).

    What the layers' matrices hold is pruned, not the embedding and the output. What is zero stays zero. Neurons
    are left out of the file, so that it is smaller, but for those under `qat`."""

    options = ("sparsity", "structure", "begin", "end", "every")

    def __init__(self, network: Network, settings: Settings) -> None:
        self.sparsity = settings.number("sparsity", 0.5, high=0.99)
        self.begin, self.end = settings.number("begin", 0.0, high=1), settings.number("end", 0.5, high=1)
        self.structure = str(settings.option("structure", ALL))
        if self.begin > self.end:
            raise ValueError(f"[train] pruning would end at {self.end} of the run, before its begin at {self.begin}")
        if self.structure not in (ALL, *STRUCTURES):
            raise ValueError(f"[train] structure {self.structure!r} is not one of {', '.join((ALL, *STRUCTURES))}")
        self.masks: dict[str, Tensor] = {}  # by linear: 0 or 1, [n, k], [n, 1] or [1, k]
        self.dense: dict[str, Shape | None] = {}  # what a linear's weight passes before
        super().__init__(network, settings)
        self.structures = [
            unit
            for word, unit in (("heads", Heads(network)), ("ffn", Ffn(network)))
            if self.structure in (word, "structured")
        ]

    def shape_of(self, linear: Linear) -> Shape | None:
        if not linear.name.startswith("blk."):
            return None
        self.dense[linear.name] = linear.shape
        return partial(self._masked, linear.name)

    def _masked(self, name: str, w: Tensor) -> Tensor:
        return w * self.masks[name] if name in self.masks else w

    def start(self, total_steps: int) -> None:
        super().start(total_steps)
        self.every = int(self.settings.number("every", max(1, total_steps // 100), low=1))
        self._prune_at(0)

    def target(self, step: int) -> float:
        """The sparsity after `step` of the run's steps."""
        begin, end = (round(x * self.total_steps) for x in (self.begin, self.end))
        if step < begin or (step == 0 and end > 0):
            return 0.0
        done = 1.0 if step >= end else (step - begin) / (end - begin)
        return self.sparsity * (1 - (1 - done) ** 3)

    def after_update(self, step: int) -> None:
        super().after_update(step)
        self._prune_at(step + 1)

    def _prune_at(self, step: int) -> None:
        end = round(self.end * self.total_steps)
        target = self.target(step)
        if target == 0 or step > end or (step % self.every and step != end):
            return
        with torch.no_grad():
            if self.structure == ALL:
                for name in self.dense:
                    self.masks[name] = self._smallest(name, target)
            for unit in self.structures:
                unit.prune(self._weight, target)
            if self.structures:
                self.masks = _product([unit.masks() for unit in self.structures])

    def _weight(self, name: str) -> Tensor:
        """As it would be without its mask."""
        linear, shape = self.network.linears[name], self.dense[name]
        assert linear.weight is not None
        return (linear.weight if shape is None else shape(linear.weight)).detach()

    def _smallest(self, name: str, share: float) -> Tensor:
        """A mask that takes `share` of the weights, first those that are taken already."""
        size = self._weight(name).abs()
        if name in self.masks:
            size[self.masks[name] == 0] = -1.0
        mask = torch.ones_like(size)
        mask.view(-1)[torch.topk(size.view(-1), round(share * size.numel()), largest=False).indices] = 0.0
        return mask

    def _smaller(self) -> Ffn | None:
        """The neurons that the file is written without. Where weights are rounded, their blocks stay as they are."""
        return next((x for x in self.structures if isinstance(x, Ffn) and self.file_type is None), None)

    def model_tensors(self) -> dict[str, Tensor]:
        tensors, ffn = super().model_tensors(), self._smaller()
        return tensors if ffn is None else ffn.without(tensors)

    def sizes(self) -> dict[str, int]:
        ffn = self._smaller()
        return {**super().sizes(), **({} if ffn is None else {"feed_forward_length": ffn.left})}

    def facts(self) -> dict[str, float]:
        if self.structure == ALL:
            share = [float((m == 0).float().mean()) for m in self.masks.values()]
            return {**super().facts(), "sparsity": sum(share) / len(share) if share else 0.0}
        return {**super().facts(), **{f"sparsity_{unit.word}": unit.sparsity for unit in self.structures}}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "masks": dict(self.masks), "kept": [unit.kept for unit in self.structures]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        super().load_state(state)
        self.masks = dict(state["masks"])
        for unit, kept in zip(self.structures, state["kept"]):
            unit.kept = kept


def _product(masks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several masks as one; of a matrix that two of them know, both."""
    out: dict[str, Tensor] = {}
    for some in masks:
        for name, mask in some.items():
            out[name] = out[name] * mask if name in out else mask
    return out
