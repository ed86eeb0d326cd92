"""Where the tokens of a batch stand, and which of them see each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Places:
    """Where the tokens of a batch stand: rotations [b or 1, t, 1, n_rot / 2] of each of the model's ropes, positions
    [b or 1, t], and the segment of each token [b, t] where rows are packed, or padded in an encoder. That one isn't
    causal: a token sees what comes after it, too."""

    rotations: list[tuple[Tensor, Tensor]]
    positions: Tensor
    segments: Tensor | None
    causal: bool
    masks: dict[int, Tensor | None] = field(default_factory=dict)  # by window

    def mask(self, window: int) -> Tensor | None:
        """True where a token [.., t, 1] sees another [.., 1, t]; None: all tokens, or those before it and itself."""
        if window not in self.masks:
            t = self.positions.shape[-1]
            if self.segments is None and (window == 0 or window >= t):
                self.masks[window] = None
            else:
                back = torch.arange(t)[:, None] - torch.arange(t)
                seen = (back >= 0) if self.causal else torch.ones((), dtype=torch.bool)
                seen = seen & (back < window) if window else seen
                if self.segments is not None:
                    seen = seen & (self.segments[:, None, :, None] == self.segments[:, None, None, :])
                self.masks[window] = seen
        return self.masks[window]
