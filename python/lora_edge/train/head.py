"""What tells classes apart: a layer to the labels on top of a network, on one token of each text.

Of an encoder that is the first token, by way of the pooler and tanh: `cls` and `cls.output`, which are BERT's pooler
and classifier (Devlin et al. 2018), and RoBERTa's classifier (Liu et al. 2019). Of a decoder it is the last token, and
`cls.output` alone, without a bias: transformers' `score`.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..encoder_names import HEAD, LABELS, family_of
from ..gguf_file import open_gguf
from ..quant import to_f32
from .loss import Loss
from .network import Linear, Network

if TYPE_CHECKING:
    from .data import Batch

POOLER = HEAD[0]
STD = 0.02  # of new weights, transformers' initializer_range


class Head:
    """labels: in the order of the logits. whole: layers that adapters train as a whole, as PEFT does: the labels', with
    RoBERTa's pooler, which is of the same module, and one that the base has none of. In float32, like the runtime's.
    """

    def __init__(self, network: Network, labels: Seq[str], seed: int) -> None:
        self.network, self.labels = network, tuple(labels)
        file = open_gguf(network.model.path)
        self.pooled = not network.config.causal
        goes_on = self.pooled and tuple(network.model.need_encoder().own_labels) == self.labels
        generator = torch.Generator().manual_seed(seed + 1)  # an adapter's numbers are those of the seed
        d = network.config.n_embd
        layers = ((POOLER, d, POOLER in file.tensors), (LABELS, len(self.labels), goes_on))
        for name, n, kept in layers if self.pooled else layers[1:]:
            weight = _values(file, name) if kept else torch.empty(n, d).normal_(0, STD, generator=generator)
            network.linears[name] = Linear(name, n, d, None, weight)
            if self.pooled:
                bias = name.removesuffix("weight") + "bias"
                network.tensors[bias] = _values(file, bias) if kept and bias in file.tensors else torch.zeros(n)
                network.linears[name].bias = network.tensors[bias]
        alone = not self.pooled or (POOLER in file.tensors and family_of(file.metadata) != "roberta")
        self.whole = (LABELS,) if alone else (POOLER, LABELS)

    def __call__(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Logits [b, labels] of last hidden states [b, t, n_embd]; lengths [b]: without padding."""
        if not self.pooled:
            return self.network.region((LABELS,), hidden[torch.arange(len(hidden)), lengths - 1])[0]
        (pooled,) = self.network.region((POOLER,), hidden[:, 0])
        return self.network.region((LABELS,), torch.tanh(pooled))[0]

    def tensors(self) -> dict[str, Tensor]:
        """Weights and biases of the layers in `whole`, by GGUF name."""
        found: dict[str, Tensor] = {}
        for name in self.whole:
            linear = self.network.linears[name]
            assert linear.weight is not None
            found[name] = linear.weight
            if linear.bias is not None:
                found[name.removesuffix("weight") + "bias"] = linear.bias
        return found

    def check_base(self) -> None:
        """ValueError: an adapter can't bring these labels to the base, which has another number of its own."""
        model = self.network.model
        own = model.need_encoder().own_labels if self.pooled else []
        if own and len(own) != len(self.labels):
            raise ValueError(
                f"[train] '{model.path}' tells {len(own)} labels apart ({', '.join(own)[:80]}), the data "
                f"{len(self.labels)}: train full, or an adapter on the encoder without its classifier"
            )

    def loss(self, hidden: Tensor, batch: Batch, scale: float | None = None) -> Loss:
        """Sum of -log p(class | text) of a batch with classes; otherwise as `loss.token_loss`."""
        assert batch.classes is not None
        classes, lengths = torch.from_numpy(batch.classes), torch.from_numpy(batch.lengths)
        x = hidden.detach().requires_grad_(scale is not None)
        with torch.set_grad_enabled(scale is not None):
            nats = F.cross_entropy(self(x, lengths), classes, reduction="sum")
        if scale is not None:
            (nats * scale).backward()
        return Loss(float(nats.detach()), len(classes), x.grad)


def add_head(network: Network, labels: Seq[str], seed: int) -> Head:
    """Puts a head for these labels on top of the network: the base's, where it has one for the same, else a new one.

    ValueError: what the base's labels say is something else than which one of them is right."""
    problem = None if network.config.causal else network.model.need_encoder().problem
    if problem not in (None, "single_label_classification"):
        raise ValueError(f"[train] '{network.model.path}' was made for {problem}; one label of each text is learned")
    network.head = Head(network, labels, seed)
    return network.head


def _values(file: Any, name: str) -> Tensor:
    return torch.from_numpy(np.array(to_f32(file.tensors[name])))
