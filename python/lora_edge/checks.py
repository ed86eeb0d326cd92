"""Numbers and ids that callers give, checked before anything else sees them."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number of any integer type, numpy's too. ValueError: it is none, or not in [low, high]."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not low <= number <= high:
        raise ValueError(f"{name} is {value!r}, not a whole number from {low} to {high}")
    return number


def real(name: str, value: Any) -> float:
    """A number of any type that Python can make a float of. ValueError: it is none, or too large."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, OverflowError):
        raise ValueError(f"{name} is {value!r}, not a number") from None


def token_ids(ids: Iterable[Any], n_vocab: int) -> list[int]:
    """Ids of any integer type, as Python's. ValueError names the first that is no id of the vocabulary."""
    if isinstance(ids, (str, bytes, bytearray)) or not isinstance(ids, Iterable):
        raise ValueError(f"token ids are needed, not {type(ids).__name__}: tokenize text first")
    return [_token_id(i, n_vocab) for i in ids]


def _token_id(value: Any, n_vocab: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"token id {value!r} is no whole number") from None
    if not 0 <= number < n_vocab:
        raise ValueError(f"token id {number} is outside the vocabulary of {n_vocab}")
    return number
