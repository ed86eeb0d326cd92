"""What a way of training is: which tensors train, at which rates, what loss they are given, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..adapter_file import AdapterFile
from .lean import send_back
from .loss import Loss, token_loss
from .network import Network
from .settings import Settings

if TYPE_CHECKING:
    from .data import Batch


class Method:
    """The base of all: trains by the cross-entropy of the learned tokens.

    kind: what is written in the end, "adapter" or "model". file_type: of a model's matrices; None: as is asked for.
    options: the names of those that it knows. heads: whether it can train a layer to labels (`head.Head`).
    """

    kind = "adapter"
    file_type: str | None = None
    options: tuple[str, ...] = ()
    heads = False

    def __init__(self, network: Network, settings: Settings) -> None:
        self.network, self.settings = network, settings
        self.total_steps = 0  # known when training begins

    @classmethod
    def trained(cls, settings: Settings) -> str:
        """The kind of what trains, "adapter" or "model"; a method over others may write another."""
        return cls.kind

    @classmethod
    def known_options(cls, settings: Settings) -> set[str]:
        """Options that it knows, and what lies under it."""
        return set(cls.options)

    def parameters(self) -> dict[str, Tensor]:
        """The tensors that train, by names that stay the same from run to run."""
        raise NotImplementedError

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser. Norms and biases don't decay."""
        groups: dict[bool, list[Tensor]] = {True: [], False: []}
        for name, x in self.parameters().items():
            groups[x.dim() > 1 and not name.endswith("norm.weight")].append(x)
        return [
            {"params": groups[True], "lr": self.settings.lr},
            {"params": groups[False], "lr": self.settings.lr, "weight_decay": 0.0},
        ]

    def start(self, total_steps: int) -> None:
        """Before the first step, resumed or not."""
        self.total_steps = total_steps

    def begin_with(self, adapter: AdapterFile) -> None:
        """Takes the values of an adapter. ValueError: the method trains none, or another."""
        raise ValueError(f"[train] {self.settings.method} can't begin with an adapter")

    def units(self, batch: Batch) -> int:
        """Of what the loss is the mean: learned tokens."""
        return batch.n_tokens

    def facts(self) -> dict[str, float]:
        """What there is to say beside the loss, for the metrics."""
        return {}

    def learn(self, batch: Batch, scale: float) -> Loss:
        """Adds the gradient of scale · Σ loss of the batch to what trains."""
        hidden = self.hidden(batch)
        loss = loss_of(self.network, hidden, batch, scale)
        if hidden.requires_grad:  # not where the output layer alone trains
            assert loss.gradient is not None
            send_back(hidden, loss.gradient)
        return loss

    def measure(self, batch: Batch) -> Loss:
        """The loss of held-out examples."""
        with torch.no_grad():
            return loss_of(self.network, self.hidden(batch), batch)

    def hidden(self, batch: Batch) -> Tensor:
        return hidden_of(self.network, batch)

    def before_update(self, step: int) -> None:
        """Gradients of step `step`, from 0, are complete."""

    def after_update(self, step: int) -> None:
        """The optimiser has made step `step`; its gradients are still there."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the parameters, in types that torch loads as weights only."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        pass

    def adapter(self) -> AdapterFile:
        """The trained adapter, of a method whose kind this is."""
        raise NotImplementedError

    def sizes(self) -> dict[str, int]:
        """What of the model's metadata is not the base's, by key without the architecture."""
        return {}

    def model_tensors(self) -> dict[str, Tensor]:
        """The trained tensors by GGUF name, of a method whose kind is "model"."""
        raise NotImplementedError


def hidden_of(network: Network, batch: Batch) -> Tensor:
    """Last hidden states [b, t, n_embd] of a batch."""
    segments = batch.segments
    if not network.config.causal and batch.n_inputs < batch.ids.size:
        segments = np.where(np.arange(batch.ids.shape[1]) < batch.lengths[:, None], 0, -1).astype(np.int32)
    given = (batch.positions, segments, batch.parts)
    return network.hidden(torch.from_numpy(batch.ids), *(None if x is None else torch.from_numpy(x) for x in given))


def loss_of(network: Network, hidden: Tensor, batch: Batch, scale: float | None = None) -> Loss:
    """Of the labels of texts, or of the learned tokens; see `loss.token_loss`."""
    if network.head is not None:
        return network.head.loss(hidden, batch, scale)
    return token_loss(network, hidden, torch.from_numpy(batch.labels), scale)
