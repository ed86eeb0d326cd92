"""Prompt lookup (Saxena 2023): a draft of the tokens to come, copied from where the text last read the same way."""

from __future__ import annotations

from collections.abc import Iterable

MAX_ROWS = 16  # of a forward pass with drafts; beyond that a row costs nearly what it saves
_SIZES = (4, 3, 2)  # n-grams looked up, in tokens; the longest that is found counts
_MAX_PAUSE = 32  # steps


class NgramIndex:
    """A text, and where each of its n-grams was last seen: O(1) per token and per look-up."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> position of the token that followed it last
        for token in ids:
            self.push(token)

    def push(self, token: int) -> None:
        """Appends a token; the n-grams before it now have a token that follows them."""
        ids, at = self._ids, len(self._ids)
        for n in _SIZES:
            if n <= at:
                self._after[tuple(ids[at - n :])] = at
        ids.append(token)

    def lookup(self, n: int) -> list[int]:
        """The n tokens that followed when the text's end was last seen before, [] if it never was. Where they run
        into the end, they go on with themselves: a text that repeats with a period is continued with it."""
        ids, end = self._ids, len(self._ids)
        for size in _SIZES:
            if size <= end and (at := self._after.get(tuple(ids[end - size :]))) is not None:
                return [ids[at + i % (end - at)] for i in range(n)]
        return []


class PromptLookup:
    """Drafts for one text, as long as the last ones were right.

    The first draft is one token. One that was right to its end doubles the rows of the next pass (1 + draft); after
    another, the next is as long as what was right of it. Where nothing was, drafting pauses for 1, then 2, 4 … 32
    steps, until a draft has a right token again. So a text that doesn't repeat itself pays for one wrong token in 33
    steps, and before a long draft fails, as many tokens were right.
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self.drafted = self.accepted = 0  # tokens
        self._index = NgramIndex(ids)
        self._length = 1
        self._pause = 0  # steps still to wait
        self._next_pause = 1
        self._asked = self._right = 0  # tokens of the draft at hand

    def push(self, token: int, *, drafted: bool) -> None:
        """The text's next token, and whether the draft had it."""
        self._index.push(token)
        self._right += drafted
        self.accepted += drafted

    def draft(self, most: int) -> list[int]:
        """Up to `most` tokens that may come next; called once per forward pass."""
        self._judge()
        if self._pause > 0:
            self._pause -= 1
            return []
        draft = self._index.lookup(min(self._length, most)) if most > 0 else []
        self._asked = len(draft)
        self.drafted += len(draft)
        return draft

    def _judge(self) -> None:
        asked, right = self._asked, self._right
        self._asked = self._right = 0
        if not asked:
            return
        if right:
            self._length = min(2 * asked + 1, MAX_ROWS - 1) if right == asked else right
            self._next_pause = 1
        else:
            self._length = 1
            self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, _MAX_PAUSE)
