"""Cross-entropy without the logits of a whole batch: some rows at a time, their gradient at once.

A vocabulary of 151,936 makes 600 KB of logits per token; the gradient of a piece needs only the piece.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .lean import send_back
from .network import Network

IGNORED = -100  # the label of tokens that aren't learned
CACHED = 4  # rows of logits that pass all steps to their gradient while they are in the cache


class Loss(NamedTuple):
    """total: the sum over tokens, in nats; n: of how many tokens; gradient: d(total · scale) / d(hidden), or None."""

    total: float
    n: int
    gradient: Tensor | None


def token_loss(network: Network, hidden: Tensor, labels: Tensor, scale: float | Tensor | None = None) -> Loss:
    """Sum of -log p(labels[i] | hidden[i]) where labels isn't IGNORED. hidden [b, t, n_embd], labels [b, t].

    With `scale`, a number or one for each label, the gradient of Σ scale · nats goes to what trains in the output
    layer, and that of hidden is returned: for `hidden.backward(loss.gradient)`.
    """
    learned = labels != IGNORED
    rows, wanted = hidden.detach()[learned], labels[learned]
    each = scale[learned] if isinstance(scale, Tensor) else torch.full((len(rows),), scale or 0.0)
    scales = each[:, None].to(rows.dtype)
    d_rows = torch.zeros_like(rows) if scale is not None else None
    total = 0.0
    for i in range(0, len(rows), network.piece()):
        piece = slice(i, i + network.piece())
        if scale is None or d_rows is None:
            with torch.no_grad():
                total += float(_nats(network.logits(rows[piece]), wanted[piece]).double().sum())
            continue
        x = rows[piece].requires_grad_(True)
        with torch.enable_grad():
            logits = network.logits(x)
        d = logits.data  # becomes its own gradient, in place: no function keeps the logits it gave
        total += float(_to_gradient(d, wanted[piece], scales[piece]).double().sum())
        send_back(logits, d)
        del logits, d  # before the next piece has its own
        assert x.grad is not None
        d_rows[piece] = x.grad
    if d_rows is None:
        return Loss(total, len(rows), None)
    gradient = torch.zeros_like(hidden)
    gradient[learned] = d_rows
    return Loss(total, len(rows), gradient)


def token_nats(network: Network, hidden: Tensor, labels: Tensor) -> Tensor:
    """-log p(labels[i] | hidden[i]) [b, t] in float64, 0 where labels is IGNORED; without a gradient."""
    learned = labels != IGNORED
    rows, wanted = hidden.detach()[learned], labels[learned]
    out = torch.zeros(labels.shape, dtype=torch.float64)
    with torch.no_grad():
        pieces = range(0, len(rows), network.piece())
        nats = [_nats(network.logits(rows[i : i + network.piece()]), wanted[i : i + network.piece()]) for i in pieces]
    out[learned] = torch.cat([torch.empty(0), *nats]).double()
    return out


def _to_gradient(logits: Tensor, wanted: Tensor, scales: Tensor) -> Tensor:
    """-log softmax at the wanted ids [m]; logits [m, n] become scales [m, 1] · (softmax - one-hot)."""
    nats = torch.empty(len(logits), dtype=logits.dtype)
    for i in range(0, len(logits), CACHED):
        x, ids, scale = logits[i : i + CACHED], wanted[i : i + CACHED, None], scales[i : i + CACHED]
        x.sub_(x.amax(dim=1, keepdim=True))
        own = x.gather(1, ids)
        total = x.exp_().sum(dim=1, keepdim=True)
        nats[i : i + CACHED] = (total.log() - own)[:, 0]
        x.mul_(scale / total).scatter_add_(1, ids, -scale)
    return nats


def _nats(logits: Tensor, wanted: Tensor) -> Tensor:
    """-log softmax at the wanted ids [m]."""
    sums = torch.cat([torch.logsumexp(x, dim=-1) for x in logits.split(CACHED)])  # each with a copy of its rows
    return sums - logits.gather(1, wanted[:, None])[:, 0]
