"""Distillation (Hinton et al. 2015, arXiv:1503.02531): beside the labels, what a teacher finds likely is learned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ... import hub
from ...api import load
from ...model import Model
from ..loss import IGNORED, Loss
from ..network import Network
from ..settings import Settings
from .over import Over

if TYPE_CHECKING:
    from ..data import Batch


class Distil(Over):
    """Options: teacher, a model (GGUF, a folder, hf://) of the same vocabulary; teacher_adapter, one beside it.
    temperature T (2); teacher_share w (0.5). trains ("full", or an adapter).

    The loss of a token is (1 - w)·nats + w·T²·KL(teacher ‖ student), both softened by T. The held-out loss is that of
    the labels alone. The teacher runs as it is served, some tokens at a time."""

    options = ("teacher", "teacher_adapter", "temperature", "teacher_share")

    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__(network, settings)
        self.temperature = settings.number("temperature", 2.0, low=0.01)
        self.share = settings.number("teacher_share", 0.5, high=1)
        self.teacher = _teacher(settings.option("teacher", None), network.model)
        adapter = settings.option("teacher_adapter", None)
        self.teacher_adapter = None if adapter is None else self.teacher.load_adapter(adapter).name

    def learn(self, batch: Batch, scale: float) -> Loss:
        hidden = self.hidden(batch)
        gradient, total, n = torch.zeros_like(hidden), 0.0, 0
        labels = torch.from_numpy(batch.labels)
        for row, columns, logits in self._taught(batch):
            learned = labels[row, columns] != IGNORED
            if not learned.any():
                continue
            x = hidden.detach()[row, columns][learned].requires_grad_(True)
            with torch.enable_grad():
                y = self.network.logits(x)
            loss, dy = softened(
                y.detach(),
                torch.from_numpy(logits)[learned],
                labels[row, columns][learned],
                self.temperature,
                self.share,
            )
            torch.autograd.backward(y, dy.mul_(scale))
            assert x.grad is not None
            gradient[row, columns][learned] = x.grad
            total, n = total + loss, n + len(x)
        hidden.backward(gradient)
        return Loss(total, n, None)

    def _taught(self, batch: Batch) -> Iterator[tuple[int, slice, NDArray[np.float32]]]:
        """The teacher's logits of a row's tokens, some at a time."""
        step = self.network.piece()
        for row, start, end in _texts(batch):
            ids = batch.ids[row, start:end].tolist()
            sequence = self.teacher.sequence(adapter=self.teacher_adapter)
            sequence.invoke(ids)
            for at in range(0, len(ids), step):
                logits = self.teacher.core.forward([(sequence.core, ids[at : at + step], 1)], all_logits=True)
                assert logits is not None
                yield row, slice(start + at, start + at + len(logits)), logits


def _texts(batch: Batch) -> Iterator[tuple[int, int, int]]:
    """Row, begin and end of each example: packed rows hold several."""
    for row, length in enumerate(batch.lengths.tolist()):
        starts = np.flatnonzero(batch.positions[row, :length] == 0).tolist()
        for start, end in zip(starts, [*starts[1:], length]):
            yield row, start, end


def softened(y: Tensor, teacher: Tensor, wanted: Tensor, temperature: float, share: float) -> tuple[float, Tensor]:
    """Logits [m, v] of student and teacher and the labels [m] -> the sum of (1 - w)·nats + w·T²·KL, and its gradient by
    the student's logits [m, v]: (1 - w)·(softmax(y) - one-hot) + w·T·(softmax(y / T) - softmax(t / T))."""
    total, gradient = 0.0, torch.zeros_like(y)
    if share < 1:
        log_p = F.log_softmax(y, dim=-1)
        total -= (1 - share) * float(log_p.gather(1, wanted[:, None]).double().sum())
        gradient = log_p.exp_()
        gradient[torch.arange(len(y)), wanted] -= 1.0
        gradient *= 1 - share
    if share > 0:
        log_q, log_p = F.log_softmax(teacher / temperature, dim=-1), F.log_softmax(y / temperature, dim=-1)
        q = log_q.exp()
        total += share * temperature**2 * float((q * (log_q - log_p)).double().sum())
        gradient.add_(log_p.exp_().sub_(q), alpha=share * temperature)
    return total, gradient


def _teacher(path: object, student: Model) -> Model:
    if not isinstance(path, (str, Path)):
        raise ValueError("[train] distil needs a model to learn from: give the option teacher")
    teacher = load(hub.local(path), threads=student.core.threads, device="cpu")
    teacher.need_decoder()
    ours, theirs = student.config.n_vocab, teacher.config.n_vocab
    same = student.tokenizer is None or teacher.tokenizer is None or _tokens(student) == _tokens(teacher)
    if ours != theirs or not same:
        what = f"{theirs} tokens, the student {ours}" if ours != theirs else "other tokens than the student"
        raise ValueError(f"[train] the teacher {path} has {what}: distillation needs one vocabulary")
    return teacher


def _tokens(model: Model) -> list[str]:
    t = model.need_tokenizer()
    return [t.token_text(i) for i in range(t.vocab_size)]
