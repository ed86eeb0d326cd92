"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): the better of two answers becomes likelier
than the worse, measured from where training began."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..loss import Loss, token_loss, token_nats
from ..method import hidden_of
from ..network import Network
from ..settings import Settings
from .over import Over

if TYPE_CHECKING:
    from ..data import Batch


class Dpo(Over):
    """Options: beta (0.1), how dear it is to leave the reference; label_smoothing ε (0), the share of pairs that may be
    the wrong way round; trains ("lora").

    With d = log p(chosen) - log p(rejected) of the answers' tokens, less the reference's, a pair's loss is
    -(1 - ε)·log σ(βd) - ε·log σ(-βd), and the mean is over pairs. The reference is the base as it lies in the file,
    with the adapters under what trains, so that an adapter trained on answers before belongs there."""

    default = "lora"
    options = ("beta", "label_smoothing")

    def __init__(self, network: Network, settings: Settings) -> None:
        self.reference = network.twin()
        super().__init__(network, settings)
        self.beta = settings.number("beta", 0.1, low=1e-6)
        self.smoothing = settings.number("label_smoothing", 0.0, high=0.5)
        self.margins: list[float] = []  # β·d of the pairs measured since `facts`

    def units(self, batch: Batch) -> int:
        return len(_pairs(batch).ids) // 2

    def learn(self, batch: Batch, scale: float) -> Loss:
        labels = torch.from_numpy(_pairs(batch).labels)
        hidden = self.hidden(batch)
        margin = self._margin(batch, hidden.detach(), labels)
        # Of each pair's loss by βd; a token's nats lower d by 1 in the chosen answer, and raise it in the rejected.
        slope = -(1 - self.smoothing) * torch.sigmoid(-margin) + self.smoothing * torch.sigmoid(margin)
        weights = torch.stack([-slope, slope], dim=1).view(-1, 1) * (self.beta * scale)
        answers = token_loss(self.network, hidden, labels, weights.expand_as(labels))
        hidden.backward(answers.gradient)
        return self._loss(margin)

    def measure(self, batch: Batch) -> Loss:
        with torch.no_grad():
            margin = self._margin(batch, self.hidden(batch), torch.from_numpy(_pairs(batch).labels))
        self.margins += margin.tolist()
        return self._loss(margin)

    def _loss(self, margin: Tensor) -> Loss:
        total = -(1 - self.smoothing) * F.logsigmoid(margin) - self.smoothing * F.logsigmoid(-margin)
        return Loss(float(total.double().sum()), len(margin), None)

    def _margin(self, batch: Batch, hidden: Tensor, labels: Tensor) -> Tensor:
        """β·d of each pair [b / 2]."""
        with torch.no_grad():
            nats = token_nats(self.network, hidden, labels).sum(dim=1)
            before = hidden_of(self.reference, batch)
            nats -= token_nats(self.reference, before, labels).sum(dim=1)
        return self.beta * (nats[1::2] - nats[0::2]).float()

    def facts(self) -> dict[str, float]:
        """Of the held-out pairs: how many are told apart, and the mean of βd."""
        margins, self.margins = self.margins, []
        if not margins:
            return super().facts()
        right = sum(m > 0 for m in margins) / len(margins)
        return {**super().facts(), "accuracy": right, "margin": sum(margins) / len(margins)}


def _pairs(batch: Batch) -> Batch:
    if not batch.pairs:
        raise ValueError('[train] dpo learns from preferences: lines with "prompt", "chosen" and "rejected"')
    return batch
