"""Batches: what they hold, in which order, and that they can be had again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from lora_edge.train.data import IGNORED, Batch, Batches, Example
from lora_edge.train.data.packing import pack


def examples_of(lengths: list[int], seed: int = 0) -> list[Example]:
    """Random ids, of which a random part after the first is learned; line i + 1."""
    rng = np.random.default_rng(seed)
    out = []
    for i, n in enumerate(lengths):
        learn = rng.random(n) < 0.7
        learn[0], learn[-1] = False, True
        out.append(Example(rng.integers(1, 1000, n).astype(np.int32), learn, i + 1))
    return out


def same(a: Batch, b: Batch) -> bool:
    arrays = ("ids", "labels", "positions", "lengths", "segments", "classes")
    equal = (np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)  # None equals None
    return all(equal) and a.rows == b.rows and a.n_tokens == b.n_tokens


def targets(batch: Batch) -> dict[int, list[tuple[int, int, int]]]:
    """For each line in the batch: (position, id, label), read back from the arrays."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for r, lines in enumerate(batch.rows):
        for k, line in enumerate(lines):
            if batch.segments is None:
                mine = np.arange(batch.ids.shape[1]) < batch.lengths[r]
            else:
                mine = batch.segments[r] == k
            columns = (batch.positions[r][mine], batch.ids[r][mine], batch.labels[r][mine])
            found[line] = list(zip(*(c.tolist() for c in columns)))
    return found


def wanted(e: Example) -> list[tuple[int, int, int]]:
    ids = e.ids.tolist()
    return [(i, ids[i], ids[i + 1] if e.learn[i + 1] else IGNORED) for i in range(len(e) - 1)]


lengths = st.lists(st.integers(2, 30), min_size=1, max_size=60)


@given(lengths=lengths, size=st.integers(1, 9), packed=st.booleans(), seed=st.integers(-(1 << 63), (1 << 64) - 1))
def test_each_epoch_holds_each_example_once(lengths: list[int], size: int, packed: bool, seed: int) -> None:
    examples = examples_of(lengths)
    batches = Batches(examples, size, seed=seed, pack=packed, length=40 if packed else None)
    for epoch in (0, 3):
        found: dict[int, list[tuple[int, int, int]]] = {}
        for batch in batches.epoch(epoch):
            assert len(batch.ids) <= size and batch.ids.dtype == batch.labels.dtype == np.int64
            assert batch.ids.shape == batch.labels.shape == batch.positions.shape
            assert batch.n_tokens == (batch.labels != IGNORED).sum() and batch.n_inputs == batch.lengths.sum()
            assert batch.ids.shape[1] == batch.lengths.max() <= 40
            here = targets(batch)
            assert not here.keys() & found.keys() and sorted(here) == list(batch.lines)
            found |= here
        assert found == {e.line: wanted(e) for e in examples}


@given(lengths=lengths, size=st.integers(1, 5), packed=st.booleans(), start=st.integers(0, 300))
def test_a_resumed_run_goes_on_exactly(lengths: list[int], size: int, packed: bool, start: int) -> None:
    first, second = (Batches(examples_of(lengths), size, seed=7, pack=packed) for _ in range(2))
    walked = [first.at(step) for step in range(start, start + 5)]
    assert all(same(second.at(start + i), walked[i]) for i in (4, 0, 2, 1, 3))


def test_order_follows_the_seed_and_the_epoch() -> None:
    examples = examples_of([5 + i % 7 for i in range(100)])
    orders = {
        tuple(batch.rows for batch in Batches(examples, 8, seed=seed).epoch(epoch))
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert len(orders) == 4
    packs = [
        frozenset(
            row for batch in Batches(examples, 8, seed=seed, pack=True, length=64).epoch(epoch) for row in batch.rows
        )
        for seed, epoch in ((1, 0), (1, 1), (2, 0))
    ]
    assert packs[0] == packs[1] == packs[2]  # what shares a row stays, the order of rows does not


def test_order_is_the_same_on_every_machine() -> None:
    """Recorded once: a resumed run may move to another machine or numpy."""
    batches = Batches(examples_of([4, 9, 2, 7, 7, 3, 5, 8, 6, 2]), 3, seed=42)
    assert [[row[0] for row in batches.at(step).rows] for step in range(4)] == [[10, 3, 6], [5, 4, 8], [2], [1, 7, 9]]


def test_evaluation_order_is_fixed_and_by_length() -> None:
    examples = examples_of([9, 3, 5, 3, 8])
    batches = Batches(examples, 2, shuffle=False)
    for epoch in (0, 1):
        assert [batch.rows for batch in batches.epoch(epoch)] == [((2,), (4,)), ((3,), (5,)), ((1,),)]


def test_little_padding() -> None:
    rng = np.random.default_rng(5)
    examples = examples_of(rng.integers(2, 200, 1600).tolist())
    inputs = sum(len(e) - 1 for e in examples)

    def cells(batches: Batches) -> int:
        return sum(batch.ids.size for batch in batches.epoch())

    assert cells(Batches(examples, 16)) < 1.06 * inputs
    assert cells(Batches(examples, 16, pack=True, length=256)) < 1.02 * inputs


@given(lengths=lengths, size=st.integers(1, 12), n=st.integers(1, 5), packed=st.booleans())
def test_shares_are_the_batch(lengths: list[int], size: int, n: int, packed: bool) -> None:
    batch = Batches(examples_of(lengths), size, pack=packed).at(0)
    shares = batch.split(n)
    assert len(shares) == n and sum(s.n_tokens for s in shares) == batch.n_tokens
    assert [row for s in shares for row in s.rows] == list(batch.rows)
    assert max(len(s.ids) for s in shares) - min(len(s.ids) for s in shares) <= 1
    found: dict[int, list[tuple[int, int, int]]] = {}
    for share in shares:
        assert share.ids.shape[1] == share.lengths.max(initial=0)
        found |= targets(share)
    assert found == targets(batch)


def test_a_head_sees_whole_texts() -> None:
    examples = [
        Example(e.ids, np.zeros(len(e), np.bool_), e.line, label=i % 3) for i, e in enumerate(examples_of([4, 7]))
    ]
    batch = Batches(examples, 2, head=True, shuffle=False).at(0)
    assert batch.classes is not None and batch.classes.tolist() == [0, 1] and batch.n_tokens == 2
    assert batch.lengths.tolist() == [4, 7] and (batch.labels == IGNORED).all()
    assert batch.ids[1].tolist() == examples[1].ids.tolist()


def test_parts_of_pairs() -> None:
    ids = np.arange(4, dtype=np.int32)
    example = Example(ids, np.zeros(4, np.bool_), 1, label=0, parts=np.array([0, 0, 1, 1], np.int32))
    batch = Batches([example], 1, head=True).at(0)
    assert batch.parts is not None and batch.parts.tolist() == [[0, 0, 1, 1]]


def test_preferences_lie_in_pairs_of_rows() -> None:
    chosen, rejected = examples_of([5, 6, 7]), examples_of([7, 3, 4], seed=1)
    pairs = [Example(c.ids, c.learn, c.line, rejected=r) for c, r in zip(chosen, rejected)]
    batch = Batches(pairs, 3, shuffle=False).at(0)
    assert batch.pairs and len(batch.ids) == 6 and batch.rows == ((1,), (1,), (2,), (2,), (3,), (3,))
    for i, (c, r) in enumerate(zip(chosen, rejected)):
        assert batch.ids[2 * i, : len(c) - 1].tolist() == c.ids[:-1].tolist()
        assert batch.ids[2 * i + 1, : len(r) - 1].tolist() == r.ids[:-1].tolist()
    assert [len(share.ids) for share in batch.split(2)] == [2, 4]
    with pytest.raises(ValueError, match="not with a head, nor for preferences"):
        Batches(pairs, 2, pack=True)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="no examples"):
        Batches([], 2)
    with pytest.raises(ValueError, match="batch_size is 0"):
        Batches(examples_of([4]), 0)
    with pytest.raises(ValueError, match=r"seed is 0\.5"):
        Batches(examples_of([4]), 1, seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an example of 8 tokens is longer than a row of 5"):
        Batches(examples_of([4, 9]), 1, pack=True, length=5)


@given(lengths=st.lists(st.integers(1, 50), max_size=80), room=st.integers(50, 70))
def test_packing(lengths: list[int], room: int) -> None:
    rows = pack(lengths, room)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    used = [sum(lengths[i] for i in row) for row in rows]
    assert all(0 < u <= room for u in used)
    if len(used) > 1:
        assert min(used) + sorted(used)[1] > room  # no two rows would fit into one
