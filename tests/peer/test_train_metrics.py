"""Scores of classification against their definitions, counted from the confusion matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from lora_edge.train.metrics import classification_scores


@pytest.mark.parametrize("n_labels", [2, 3, 7])
def test_scores_are_their_definitions(n_labels: int) -> None:
    rng = np.random.default_rng()
    y = rng.integers(0, n_labels, 400)
    guess = np.where(rng.random(400) < 0.6, y, rng.integers(0, n_labels, 400))
    m = np.zeros((n_labels, n_labels))
    np.add.at(m, (y, guess), 1)
    right, truth, given = m.diagonal(), m.sum(1), m.sum(0)
    f1 = 2 * right / (truth + given)
    mcc = (right.sum() * m.sum() - truth @ given) / math.sqrt(
        (m.sum() ** 2 - given @ given) * (m.sum() ** 2 - truth @ truth)
    )
    scores = classification_scores(y, guess, n_labels)
    assert scores.accuracy == pytest.approx(right.sum() / 400)
    assert scores.f1_macro == pytest.approx(f1.mean())
    assert scores.mcc == pytest.approx(mcc)
    assert scores.f1_binary == (pytest.approx(f1[1]) if n_labels == 2 else None)
    assert scores.as_dict() | {"n": 400} == scores.as_dict()


def test_one_class_only_is_no_correlation() -> None:
    scores = classification_scores([1, 1, 1], [1, 1, 1], 3)
    assert (scores.accuracy, scores.f1_macro, scores.f1_binary, scores.mcc) == (1.0, 1.0, None, 0.0)
