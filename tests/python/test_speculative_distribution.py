"""Unseeded speculative texts follow the model's distribution; the same test refuses wrong rules of acceptance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from lora_edge.generation import Run
from lora_edge.model import Model
from tiny_models import random_shape, random_tensors, write_model

SPECULATIVE: dict[str, Any] = {"speculative": "prompt-lookup"}
DRAWS = 2000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Eight tokens, each likely enough after any other."""
    rng = np.random.default_rng(5)
    shape = random_shape(rng, "llama", n_vocab=8, n_ctx=128, n_layer=1, tied=False, extra={})
    tensors = random_tensors(rng, shape)
    tensors["output.weight"] *= np.float32(0.3)
    with Model(write_model(tmp_path_factory.mktemp("small") / "base.gguf", shape, tensors), threads=1) as model:
        yield model


def all_pairs(n: int) -> list[int]:
    """A text in which each of the n² pairs of tokens stands once, and so is drafted from (de Bruijn)."""
    text, left = [0], {(a, b) for a in range(n) for b in range(n)}
    while left:
        best = max(b for b in range(n) if (text[-1], b) in left)
        left.remove((text[-1], best))
        text.append(best)
    return text


def pair_statistic(model: Model, **options: Any) -> tuple[float, int]:
    """Chi-square of the second and third token of unseeded runs, which drafts may have decided, with the model's own
    probabilities; and its degrees of freedom."""
    n = model.config.n_vocab
    start = all_pairs(n)

    def after(*more: int) -> np.ndarray:
        return np.exp(log_softmax(model.logits([*start, *more], last=1)[0]))

    first = after()
    expected = np.zeros((n, n))
    for t in range(n):
        second = after(t)
        for u in range(n):
            expected[u] += DRAWS * first[t] * second[u] * after(t, u)
    trunk = model.sequence()
    trunk.feed(start)
    seen = np.zeros((n, n))
    for _ in range(DRAWS):
        tokens = list(trunk.fork().generate(stream=True, max_tokens=4, temperature=1.0, **options))
        seen[tokens[1].id, tokens[2].id] += 1
    common = expected >= 5
    assert common.mean() > 0.5
    statistic = ((seen - expected)[common] ** 2 / expected[common]).sum()
    rest, rest_expected = seen[~common].sum(), expected[~common].sum()
    statistic += (rest - rest_expected) ** 2 / max(rest_expected, 1.0)
    return float(statistic), int(common.sum())


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.max()
    return np.asarray(x - np.log(np.exp(x).sum()))


def bound(freedom: int) -> float:
    return freedom + 5.5 * (2 * freedom) ** 0.5 + 10  # chi-square: mean f, variance 2 f


def test_unseeded_texts_follow_the_distribution(small: Model) -> None:
    statistic, freedom = pair_statistic(small, **SPECULATIVE)
    assert statistic <= bound(freedom)


@pytest.mark.parametrize("rule", ["second draw", "likely enough"])
def test_wrong_acceptance_rules_would_show(small: Model, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    """Two plausible mistakes: drawing afresh where the draft was rejected, and accepting what is likely enough."""

    class Wrong:
        def __init__(self, run: Run) -> None:
            self.run, self.right = run, run.sampler

        def accept(self, token: int) -> None:
            self.right.accept(token)

        def sample(self, core: Any, length: int) -> tuple[int, float]:
            ahead = self.run.sequence.ahead
            if ahead and rule == "likely enough":
                p = np.exp(log_softmax(small.logits(self.run.sequence.ids, last=1)[0]))
                if p[ahead[0]] > 0.5 / len(p):
                    return ahead[0], float(np.log(p[ahead[0]]))
            drawn = self.right.sample(core, length)
            return self.right.sample(core, length) if ahead and drawn[0] != ahead[0] else drawn

    start = Run.start.__func__  # type: ignore[attr-defined]

    def wrong_start(cls: type[Run], *args: Any) -> Run:
        run: Run = start(cls, *args)
        run.sampler = Wrong(run)  # type: ignore[assignment]
        return run

    monkeypatch.setattr(Run, "start", classmethod(wrong_start))
    statistic, freedom = pair_statistic(small, **SPECULATIVE)
    assert statistic > 1.5 * bound(freedom)
