"""Second moments of what enters a model's linears on a text: all that a least-squares fit needs to know of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..adapter import AdapterSpec
from ..model import Model
from ..taps import observed

Moments = NDArray[np.float64]  # Xᵀ X / rows, [k, k]


@dataclass(frozen=True)
class Inputs:
    """The moments of one input: on the text to fit to, and on the part held out, to report on."""

    fit: Moments
    held: Moments


def groups(shapes: dict[str, tuple[int, int]], wanted: Seq[str], memory: int) -> list[list[str]]:
    """`wanted` tensors in runs whose moments take at most `memory` bytes together, or one tensor each."""
    out: list[list[str]] = [[]]
    used = 0
    for name in wanted:
        size = 2 * 8 * shapes[name][1] ** 2
        if out[-1] and used + size > memory:
            out.append([])
            used = 0
        out[-1].append(name)
        used += size
    return out


def collect(
    model: Model, adapter: AdapterSpec, fit: Seq[list[int]], held: Seq[list[int]], wanted: Seq[str]
) -> dict[str, Inputs]:
    """Runs both texts, given in windows of ids, and returns the moments of `wanted`; linears that share an input share
    the arrays."""
    one, two = (_moments(model, adapter, windows, set(wanted)) for windows in (fit, held))
    shared: dict[int, Inputs] = {}
    return {name: shared.setdefault(id(one[name]), Inputs(one[name], two[name])) for name in wanted}


def _moments(model: Model, adapter: AdapterSpec, windows: Seq[list[int]], wanted: set[str]) -> dict[str, Moments]:
    sums: dict[str, Moments] = {}
    rows = sum(map(len, windows))

    def see(names: list[str], x: NDArray[np.float32]) -> None:
        ours = [name for name in names if name in wanted]
        if not ours:
            return
        part = x.T @ x
        if ours[0] in sums:
            sums[ours[0]] += part
        else:
            total = part.astype(np.float64)
            sums.update(dict.fromkeys(ours, total))

    with observed(model, see):
        for window in windows:
            model.logits(window, adapter=adapter)
    scaled: dict[int, Moments] = {}
    for array in sums.values():
        if id(array) not in scaled:
            scaled[id(array)] = array
            array /= rows
    return sums


def windows_of(ids: list[int], size: int, tokens: int) -> tuple[list[list[int]], list[list[int]]]:
    """The first `tokens` ids in windows, as (to fit to, held out): every fifth window is held out, at least one."""
    used = ids[:tokens]
    size = max(1, min(size, len(used) // 5))
    windows = [used[i : i + size] for i in range(0, len(used) - size + 1, size)]
    return [w for i, w in enumerate(windows) if i % 5 != 4], windows[4::5]


Tick = Callable[[int, int, str], None]  # tensors done, in all, the last one's name
