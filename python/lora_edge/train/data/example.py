"""One example: token ids, and which of them are to be learned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORED = -100  # the label of a position without a loss, as in torch and transformers

Ids = NDArray[np.int32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Example:
    """ids [n] and learn [n]: learn[i] says whether token i is predicted with a loss; the first never is.

    line: where it stands in its file, from 1. n_prompt: tokens before the completion; 0 where there is none. label: the
    class, -1 where there is none; with a head no token is learned but the label. parts [n]: which text of a pair a
    token belongs to, for encoders. rejected: the worse answer to the same prompt, for preferences.
    """

    ids: Ids
    learn: Flags
    line: int
    n_prompt: int = 0
    label: int = -1
    parts: Ids | None = None
    rejected: Example | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_learned(self) -> int:
        """Tokens that have a loss."""
        return int(self.learn.sum())
