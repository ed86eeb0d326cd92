"""What a trained model is measured by: classification scores, and the loss of text per token, character and byte."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence as Seq
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from .data.example import Example


@dataclass(frozen=True)
class Scores:
    """accuracy; f1_macro: the mean of each class's F1, of those that occur; f1_binary: of class 1, where there are two
    classes, else None; mcc: Matthews correlation (Matthews 1975), in any number of classes (Gorodkin 2004)."""

    accuracy: float
    f1_macro: float
    f1_binary: float | None
    mcc: float
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


def classification_scores(truth: ArrayLike, predicted: ArrayLike, n_labels: int) -> Scores:
    """Scores of predicted classes [n] against the true ones [n], both from 0 to n_labels - 1.

    RuntimeError: scikit-learn is not installed. ValueError: lengths or classes that don't fit."""
    y, guess = np.asarray(truth), np.asarray(predicted)
    if y.ndim != 1 or y.shape != guess.shape or not len(y):
        raise ValueError(f"{y.shape} true classes and {guess.shape} predicted ones: as many are needed, at least one")
    for name, classes in (("true", y), ("predicted", guess)):
        if classes.dtype.kind not in "iu" or classes.min() < 0 or classes.max() >= n_labels:
            raise ValueError(f"a {name} class is no whole number from 0 to {n_labels - 1}")
    try:
        from sklearn import metrics
    except ImportError:
        raise RuntimeError("scores need scikit-learn: pip install 'lora_edge[train]'") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that only one class occurs, which the figures show
        return Scores(
            accuracy=float(metrics.accuracy_score(y, guess)),
            f1_macro=float(metrics.f1_score(y, guess, average="macro", zero_division=0)),
            f1_binary=float(metrics.f1_score(y, guess, pos_label=1, zero_division=0)) if n_labels == 2 else None,
            mcc=float(metrics.matthews_corrcoef(y, guess)),
            n=len(y),
        )


def perplexity(nats: float, tokens: int) -> float:
    """exp of the mean loss: `nats` is the summed cross-entropy of `tokens` tokens. Infinity where it is too large."""
    try:
        return math.exp(nats / tokens)
    except OverflowError:
        return math.inf


def bits_per(nats: float, units: int) -> float:
    """The summed cross-entropy in bits per character, byte or whatever `units` counts: comparable between vocabularies,
    which perplexity per token is not."""
    return nats / units / math.log(2)


def text_size(examples: Seq[Example], decode: Callable[[list[int]], str]) -> tuple[int, int]:
    """Characters and UTF-8 bytes of what the examples have a loss for, by the tokenizer's `decode`; control tokens
    count nothing, as they are no text."""
    characters = size = 0
    for example in examples:
        text = decode(example.ids[example.learn].tolist())
        characters += len(text)
        size += len(text.encode())
    return characters, size
