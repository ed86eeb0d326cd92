"""Several examples in one row, so that little of a batch is padding."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence as Seq


def pack(lengths: Seq[int], room: int) -> list[list[int]]:
    """Indices of `lengths` [n] in rows that hold at most `room` each: best fit, the longest first (Johnson 1973).

    Of equally long ones the earlier goes first. ValueError: one alone is longer than `room`.
    """
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # rows by what is left in them
    left: list[int] = []  # the keys of open_rows, sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if length > room:
            raise ValueError(f"an example of {length} tokens is longer than a row of {room}")
        at = bisect_left(left, length)
        if at < len(left):
            rest = left[at]
            row = open_rows[rest].pop()
            if not open_rows[rest]:
                del open_rows[rest], left[at]
        else:
            rest, row = room, len(rows)
            rows.append([])
        rows[row].append(index)
        rest -= length
        if rest:
            if rest not in open_rows:
                open_rows[rest] = []
                insort(left, rest)
            open_rows[rest].append(row)
    return rows
