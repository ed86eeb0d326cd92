"""Half Fine-Tuning (Hui et al. 2024, arXiv:2404.18466): half of the weights rest, and keep what they know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from ..network import Network
from ..settings import Settings
from .full import Full


class Half(Full):
    """Options: rounds (1), equal parts of the run; each draws another half.

    A block is a matrix or a norm of a layer, with its bias. In each layer half of the attention's blocks train, half of
    the feed-forward's and half of the norms; of an odd number one more and one less in turn, so that it is half over
    the layers. What lies outside of the layers always trains."""

    options = ("rounds",)
    heads = False

    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__(network, settings)
        self.rounds, self.round = int(settings.number("rounds", 1, low=1)), 0

    def start(self, total_steps: int) -> None:
        super().start(total_steps)
        self._begin_round(0)

    def _begin_round(self, round: int) -> None:
        self.round = round
        frozen = frozen_blocks([_block(name) for name in self.weights], self.settings.seed, round)
        for name, weight in self.weights.items():
            weight.requires_grad_(_block(name) not in frozen)

    def before_update(self, step: int) -> None:
        for weight in self.weights.values():
            if not weight.requires_grad:
                weight.grad = None  # zeros, of several processes, would let the optimiser's momentum move it

    def after_update(self, step: int) -> None:
        round = (step + 1) * self.rounds // max(1, self.total_steps)
        if self.round < round < self.rounds:
            self._begin_round(round)

    def state(self) -> dict[str, Any]:
        return {"round": self.round}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._begin_round(int(state["round"]))


def _block(name: str) -> str:
    """blk.0.attn_q.bias -> blk.0.attn_q"""
    return name.rpartition(".")[0]


def frozen_blocks(blocks: list[str], seed: int, round: int) -> set[str]:
    """The half of the layers' blocks that rests in a round."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + round)
    groups: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))  # by category and layer
    for block in dict.fromkeys(blocks):
        first, _, rest = block.partition(".")
        layer, _, stem = rest.partition(".")
        if first == "blk":
            category = "norm" if stem.endswith("norm") else stem.partition("_")[0]
            groups[category][int(layer)].append(block)
    frozen: set[str] = set()
    for layers in groups.values():
        odd = int(torch.randint(2, (), generator=generator))
        for members in layers.values():
            n = (len(members) + odd) // 2
            odd ^= len(members) & 1
            chosen = torch.randperm(len(members), generator=generator)[:n]
            frozen.update(members[i] for i in chosen.tolist())
    return frozen
