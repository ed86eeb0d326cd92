"""Where two models part: the inputs of their linears, in the order of a pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .numbers import Floats

Inputs = dict[str, Floats]  # by linear, [rows, k]


@dataclass(frozen=True)
class Divergence:
    """Where two models part: the first linear, in the order of a pass, whose input is farther apart than `limit`.

    tensor: that linear; None: all inputs agree, so that the output layer itself differs. before: the linear before it,
    whose input still agrees. error, error_before: ‖x - y‖ / ‖y‖ of both inputs, y the reference's.
    """

    tensor: str | None
    error: float
    before: str | None
    error_before: float
    limit: float

    def __str__(self) -> str:
        if self.tensor is None:
            last = f"that of {self.before} by {self.error_before:.1e}"
            return (
                f"no linear's input is off by more than {self.limit:g}, {last}: the output differs, or rounding adds up"
            )
        start = f"the input of {self.tensor} is off by {self.error:.1e}"
        if self.before is None:
            return f"{start}: the embedding or the first norm differs"
        return f"{start}, that of {self.before} by {self.error_before:.1e}: look between the two"


def diverged(x: Inputs | None, y: Inputs | None, limit: float) -> tuple[Divergence | None, dict[str, float]]:
    """The first linear whose inputs differ, and by how much each does. None where a side has no inputs to show."""
    if not x or not y:
        return None, {}
    errors = {
        name: float(np.linalg.norm(x[name] - y[name]) / max(float(np.linalg.norm(y[name])), 1e-30))
        for name in x
        if name in y and x[name].shape == y[name].shape
    }
    before: tuple[str | None, float] = (None, 0.0)
    for name, error in errors.items():
        if not error <= limit:
            return Divergence(name, error, *before, limit), errors
        before = name, error
    return Divergence(None, 0.0, *before, limit), errors
