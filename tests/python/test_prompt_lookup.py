"""Drafts: the index of n-grams against a plain search, and how long drafts are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, strategies as st
from lora_edge.prompt_lookup import MAX_ROWS, NgramIndex, PromptLookup


def brute_force(ids: list[int], n: int) -> list[int]:
    """The last earlier place where the longest of the text's ends of 4, 3, 2 tokens stands, and what follows it."""
    for size in (4, 3, 2):
        for at in range(len(ids) - 1, size - 1, -1):
            if len(ids) >= size and ids[at - size : at] == ids[-size:]:
                text = list(ids)
                for i in range(n):
                    text.append(text[at + i])
                return text[len(ids) :]
    return []


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 20), st.integers(0, 60))
def test_index_equals_a_search(ids: list[int], n: int, given_at_once: int) -> None:
    index = NgramIndex(ids[:given_at_once])
    for token in ids[given_at_once:]:
        index.push(token)
    assert index.lookup(n) == brute_force(ids, n)


def play(lookup: PromptLookup, text: list[int], most: int = MAX_ROWS - 1) -> tuple[int, list[int]]:
    """Drafts of a text that is known already: the passes it takes, and the length of each draft."""
    passes, lengths, at = 0, [], 0
    while at < len(text):
        draft = lookup.draft(most)
        lengths.append(len(draft))
        passes += 1
        for token in [*draft, None]:
            if at == len(text):
                break
            lookup.push(text[at], drafted=text[at] == token)
            at += 1
            if text[at - 1] != token:
                break
    return passes, lengths


def test_drafts_grow_with_success() -> None:
    text = list(range(100))
    passes, lengths = play(PromptLookup([*text, 200, 0, 1]), text[2:])
    assert lengths[:5] == [1, 3, 7, 15, 15] and passes == len(lengths) <= 9
    passes, lengths = play(PromptLookup([*text, 200, 0, 1]), text[2:], most=3)
    assert max(lengths) == 3


def test_drafts_pause_where_they_fail() -> None:
    """Each pair has been seen and each guess is wrong: a draft of one token, every 33 steps in the end."""
    rng = np.random.default_rng(0)
    lookup = PromptLookup(rng.integers(0, 5, 500).tolist())
    tried = []
    for _ in range(1000):
        draft = lookup.draft(15)
        tried.append(len(draft))
        lookup.push((draft[0] + 1) % 5 if draft else int(rng.integers(0, 5)), drafted=False)
    assert set(tried) == {0, 1}
    at = [i for i, n in enumerate(tried) if n]
    assert [b - a - 1 for a, b in pairwise(at)][:8] == [1, 2, 4, 8, 16, 32, 32, 32]
    assert lookup.accepted == 0 and lookup.drafted == len(at)


def test_a_copy_is_found_again_after_an_edit() -> None:
    """One token in twenty changed: most of the text still comes from drafts."""
    rng = np.random.default_rng(1)
    text = rng.integers(0, 30000, 400).tolist()
    edited = [t if i % 20 else 30000 + i for i, t in enumerate(text)]
    passes, _ = play(PromptLookup(text + text[:3]), edited[3:])
    assert passes < 0.5 * len(edited)
