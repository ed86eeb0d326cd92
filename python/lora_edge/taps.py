"""Looking at what enters each linear while a model runs: for comparing models and for calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence as Seq
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from .adapter import AdapterSpec
from .model import Model

See = Callable[[list[str], NDArray[np.float32]], None]
"""(names of linears, their common input [m, k]); rows are tokens, in order, at most 256 at a time."""


@contextmanager
def observed(model: Model, see: See) -> Iterator[None]:
    """Within the context every pass of `model` shows `see` the inputs of its linears. `see` must not run the model."""
    model.core.observe(see)
    try:
        yield
    finally:
        model.core.observe(None)


def inputs_of(model: Model, ids: Seq[int], adapter: AdapterSpec = None) -> dict[str, NDArray[np.float32]]:
    """The inputs [len(ids), k] of all linears, by tensor name in the order of a pass."""
    rows: dict[str, list[NDArray[np.float32]]] = {}

    def see(names: list[str], x: NDArray[np.float32]) -> None:
        for name in names:
            rows.setdefault(name, []).append(x)

    with observed(model, see):
        model.logits(ids, adapter=adapter)
    return {name: np.concatenate(parts) for name, parts in rows.items()}
