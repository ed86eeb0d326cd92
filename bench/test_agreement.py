"""Before anything is timed: both engines compute the same model from these files, and the adapter is really applied."""

from __future__ import annotations

import numpy as np
import pytest
from engines import Engine
from models import Files

IDS = [int(i) for i in np.random.default_rng(7).integers(1, 300, 48)]


def logits(engine: Engine, adapter: str | None) -> np.ndarray:
    engine.start()
    engine.use(adapter)
    engine.feed(IDS)
    return engine.logits()


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


@pytest.mark.parametrize("adapter", [None, "one", "two"])
def test_engines_agree(engines: dict[str, Engine], adapter: str | None) -> None:
    pytest.importorskip("llama_cpp", reason="the peer is not installed")
    ours, theirs = (logits(e, adapter) for e in engines.values())
    assert np.isfinite(ours).all()
    assert likeness(ours, theirs) > 0.99


def test_an_adapter_shows_and_a_merge_equals_it(
    engines: dict[str, Engine], kinds: dict[str, type[Engine]], files: Files, threads: int
) -> None:
    for name, engine in engines.items():
        base, one, two = (logits(engine, adapter) for adapter in (None, "one", "two"))
        assert max(likeness(base, one), likeness(base, two), likeness(one, two)) < 0.95, name
        merged_engine = kinds[name](files.merged, threads=threads)
        merged = logits(merged_engine, None)
        merged_engine.close()
        assert likeness(one, merged) > 0.99, name
