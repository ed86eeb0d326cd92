"""Checking that whole weights which a PEFT adapter carries along are the base's own.

When PEFT adapts an embedding it also saves the frozen embedding.  If that were not the base's (a resized or
retrained one), running the adapter on this base would be silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .adapter_parts import AdapterFile
from .gguf_file import BlockRows
from .quant import to_f32

Array = NDArray[Any]
WeightSource = Callable[[str], "Array | None"]  # GGUF tensor name -> array as in GgufFile.tensors, None if not at hand

# Half a unit in the last place, relative to the value, by numpy type (uint16 holds bfloat16).
_ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "uint16": 2.0**-8, "uint8": 2.0**-11}
_ROWS = 4096  # compared at a time
_COARSE = 0.4  # of the norm of those rows: what blocks of a few bits lose at most; another base's rows differ by 1.4


def check_base_copies(adapter: AdapterFile, weight_of: WeightSource) -> None:
    """ValueError if a copy in `adapter.base_copies` differs from the base's tensor by more than both types'
    rounding."""
    for name, copy in adapter.base_copies.items():
        base = weight_of(name)
        if base is None and name == "output.weight":
            base = weight_of("token_embd.weight")
        if base is not None and not _equal(copy, base):
            raise ValueError(
                f"[adapter] {adapter.name} carries its own {name}, which is not the base's: "
                "it was trained on another base, or with a changed vocabulary"
            )


def _equal(copy: Array, base: Array) -> bool:
    if len(copy) != len(base):
        return False
    rounding = _ROUNDING[copy.dtype.name] + _ROUNDING[base.dtype.name] + 2.0**-24
    for start in range(0, len(copy), _ROWS):
        x, y = to_f32(copy[start : start + _ROWS]), to_f32(base[start : start + _ROWS])
        if x.shape != y.shape:
            return False
        if isinstance(base, BlockRows):
            if not np.linalg.norm(x - y) <= _COARSE * np.linalg.norm(x):
                return False
            continue
        allowed = rounding * np.abs(x) + 2.0**-24  # the second term: float16's smallest numbers
        if base.dtype == np.uint8:  # half a step is max / 254 of a block, whose float16 scale may be tiny
            allowed = allowed + np.abs(x).max(axis=1, keepdims=True) / 250 + 127 * 2.0**-25
        with np.errstate(invalid="ignore", over="ignore"):
            close = np.abs(x - y) <= allowed
        if not close.all():
            return False
    return True
