"""Batches of examples: which go together, in an order that step and seed alone decide, and as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence as Seq
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...checks import whole
from .example import IGNORED, Example
from .packing import pack as pack_rows

Longs = NDArray[np.int64]
Row = list[Example]  # what stands side by side in one row: one example, or several where rows are packed

PADDING = 0  # the id; any would do, since nothing looks at it
_BUCKET = 50  # batches that are drawn together and sorted by length


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of b examples (or packs of them), filled with padding at the end to t.

    ids [b, t]. labels [b, t]: the token that follows ids[i, j], IGNORED (-100) where there is no loss; so logits and
    labels meet without a shift. positions [b, t]: from 0 in each example. segments [b, t] or None: the number of the
    example in its row, -1 for padding; a token attends to its own segment only. None: one example per row, and nothing
    after it that a causal model could see. lengths [b]: tokens of each row that are not padding. classes [b] or None:
    for a head on token lengths - 1. parts [b, t] or None: for encoders. n_tokens: with a loss (with a head: rows).
    rows: for each row, the lines of the file it holds. pairs: rows 2i are chosen answers and rows 2i + 1 rejected ones.
    """

    ids: Longs
    labels: Longs
    positions: Longs
    segments: NDArray[np.int32] | None
    lengths: Longs
    classes: Longs | None
    parts: Longs | None
    n_tokens: int
    rows: tuple[tuple[int, ...], ...]
    pairs: bool = False

    @property
    def lines(self) -> tuple[int, ...]:
        """The lines of the file that the batch holds, sorted."""
        return tuple(sorted({line for row in self.rows for line in row}))

    @property
    def n_inputs(self) -> int:
        """Tokens that are not padding."""
        return int(self.lengths.sum())

    def split(self, n: int) -> list[Batch]:
        """The batch in `n` shares of rows, each as wide as its longest row; where it has fewer rows some are empty. The
        losses of the shares, summed and divided by n_tokens of the whole, are the whole's."""
        together = 2 if self.pairs else 1
        units = len(self.ids) // together
        edges = [units * i // n * together for i in range(n + 1)]
        return [self._share(slice(a, b)) for a, b in pairwise(edges)]

    def _share(self, rows: slice) -> Batch:
        lengths = self.lengths[rows]
        t = int(lengths.max(initial=0))
        labels = self.labels[rows, :t]
        classes = None if self.classes is None else self.classes[rows]
        return Batch(
            self.ids[rows, :t],
            labels,
            self.positions[rows, :t],
            None if self.segments is None else self.segments[rows, :t],
            lengths,
            classes,
            None if self.parts is None else self.parts[rows, :t],
            int((labels != IGNORED).sum()) if classes is None else len(classes),
            self.rows[rows],
            self.pairs,
        )


class Batches:
    """The batches of a split, without end: batch i of epoch e follows from (seed, e, i) and the examples alone.

    Examples are shuffled in each epoch and sorted by length among 50 batches' worth, so that rows of a batch are about
    equally long; then the batches are shuffled. pack: rows hold several examples, at most `length` tokens together;
    which ones is the same in each epoch, the order of rows is not. shuffle=False: always in one order, by length, for
    evaluation. The last batch of an epoch may be smaller. head: rows keep all tokens and have a class.
    """

    def __init__(
        self,
        examples: Seq[Example],
        batch_size: int,
        *,
        seed: int = 0,
        pack: bool = False,
        length: int | None = None,
        head: bool = False,
        shuffle: bool = True,
    ) -> None:
        if not examples:
            raise ValueError("[data] there are no examples to make batches of")
        self._size = whole("batch_size", batch_size, 1, 1 << 20)
        self._seed = whole("seed", seed, -(1 << 63), (1 << 64) - 1) % (1 << 64)
        self._head, self._shuffle, self._packed = head, shuffle, pack
        if pack and (head or any(e.rejected is not None for e in examples)):
            raise ValueError("[data] packing is for texts and completions: not with a head, nor for preferences")
        widths = [len(e) - (not head) for e in examples]
        if pack:
            room = max(widths) if length is None else whole("length", length, 1, 1 << 30)
            self._rows = [[examples[i] for i in row] for row in pack_rows(widths, room)]
        else:
            self._rows = [[e] for e in examples]
        self._widths = np.array([sum(len(e) for e in row) for row in self._rows])
        self._plan: tuple[int, list[Longs]] = (-1, [])

    def __len__(self) -> int:
        """Batches of one epoch."""
        return -(-len(self._rows) // self._size)

    def at(self, step: int) -> Batch:
        """The batch of a step, from 0; epoch step // len(self) has it as its batch step % len(self)."""
        epoch, i = divmod(step, len(self))
        if self._plan[0] != epoch:
            self._plan = (epoch, self._order(epoch))
        return stack([self._rows[row] for row in self._plan[1][i]], head=self._head, packed=self._packed)

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        """All batches of one epoch."""
        return (self.at(epoch * len(self) + i) for i in range(len(self)))

    def _order(self, epoch: int) -> list[Longs]:
        """The rows of each batch of an epoch."""
        n = len(self._rows)
        if not self._shuffle:
            order = np.argsort(self._widths, kind="stable")
            return [order[i : i + self._size] for i in range(0, n, self._size)]
        # A bit generator's raw stream stays the same in all versions of numpy; Generator's methods need not.
        bits = np.random.PCG64(np.random.SeedSequence([self._seed, epoch]))
        order = np.argsort(bits.random_raw(n), kind="stable")
        batches: list[Longs] = []
        for at in range(0, n, _BUCKET * self._size):
            bucket = order[at : at + _BUCKET * self._size]
            bucket = bucket[np.argsort(self._widths[bucket], kind="stable")]
            batches += [bucket[i : i + self._size] for i in range(0, len(bucket), self._size)]
        shuffled = np.argsort(bits.random_raw(len(batches)), kind="stable")
        return [batches[i] for i in shuffled]


def stack(rows: Seq[Row], *, head: bool = False, packed: bool = False) -> Batch:
    """Rows of examples to one batch; each preference gives two rows."""
    pairs = rows[0][0].rejected is not None
    rows = [side for row in rows for side in _sides(row)]
    skip = 0 if head else 1  # the last token has no successor to learn
    lengths = np.array([sum(len(e) - skip for e in row) for row in rows], np.int64)
    shape = (len(rows), int(lengths.max(initial=0)))
    ids, labels, positions = np.full(shape, PADDING, np.int64), np.full(shape, IGNORED, np.int64), np.zeros(shape, int)
    segments = np.full(shape, -1, np.int32) if packed else None
    parts = np.zeros(shape, np.int64) if any(e.parts is not None for row in rows for e in row) else None
    for r, row in enumerate(rows):
        at = 0
        for k, e in enumerate(row):
            n = len(e) - skip
            here = slice(at, at + n)
            ids[r, here] = e.ids[:n]
            positions[r, here] = np.arange(n)
            if not head:
                labels[r, here] = np.where(e.learn[1:], e.ids[1:], IGNORED)
            if segments is not None:
                segments[r, here] = k
            if parts is not None and e.parts is not None:
                parts[r, here] = e.parts[:n]
            at += n
    classes = np.array([row[0].label for row in rows], np.int64) if head else None
    n_tokens = len(rows) if head else int((labels != IGNORED).sum())
    lines = tuple(tuple(e.line for e in row) for row in rows)
    return Batch(ids, labels, positions, segments, lengths, classes, parts, n_tokens, lines, pairs)


def _sides(row: Row) -> list[Row]:
    """The row, and under it that of the worse answer where there is one."""
    rejected = row[0].rejected
    return [row] if rejected is None else [row, [rejected]]
