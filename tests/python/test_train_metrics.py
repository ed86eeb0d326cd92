"""Perplexity and bits per character, and what is said without scikit-learn; the scores themselves: tests/peer."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from lora_edge.train.data import Example
from lora_edge.train.metrics import bits_per, classification_scores, perplexity, text_size
from train_cases import KINDS, small_tokenizer


def test_perplexity_and_bits() -> None:
    assert perplexity(10 * math.log(7), 10) == pytest.approx(7)
    assert perplexity(1e6, 1) == math.inf
    assert bits_per(10 * math.log(2), 5) == pytest.approx(2)
    # A model that gives each of 256 bytes the same probability needs 8 bits per byte.
    assert bits_per(100 * math.log(256), 100) == pytest.approx(8)


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_has_a_loss(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    ids = np.array([*tokenizer.encode("ab", add_bos=False), *tokenizer.encode("é🙂x", add_bos=False), tokenizer.eos_id])
    n = len(tokenizer.encode("ab", add_bos=False))
    example = Example(ids.astype(np.int32), np.arange(len(ids)) >= n, 1)
    space = tokenizer.decode(ids[n:].tolist(), continuation=True).startswith(" ")
    decode = lambda i: tokenizer.decode(i, continuation=True)  # noqa: E731
    assert text_size([example, example], decode) == (2 * (3 + space), 2 * (7 + space))


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(RuntimeError, match=r"pip install 'lora_edge\[train\]'"):
        classification_scores([0, 1], [0, 1], 2)


@pytest.mark.parametrize(
    ("truth", "guess", "n", "what"),
    [
        ([], [], 2, "at least one"),
        ([0, 1], [0], 2, r"\(2,\) true classes and \(1,\) predicted"),
        ([[0], [1]], [[0], [1]], 2, "at least one"),
        ([0, 2], [0, 1], 2, "a true class is no whole number from 0 to 1"),
        ([0, 1], [0, -1], 2, "a predicted class is no whole number"),
        ([0, 1], [0.0, 1.0], 2, "a predicted class is no whole number"),
    ],
)
def test_classes_that_do_not_fit(truth: object, guess: object, n: int, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        classification_scores(truth, guess, n)  # type: ignore[arg-type]
