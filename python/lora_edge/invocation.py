"""Where an activated LoRA (aLoRA, Greenewald et al. 2025, arXiv:2504.12397) starts: at the last occurrence of its
invocation tokens in the prompt, as PEFT has it. Before it the base runs alone, so that its keys and values serve any
number of such adapters."""

from __future__ import annotations

from collections.abc import Sequence as Seq

NEVER = (1 << 31) - 1  # a position that no text reaches


def last_start(text: Seq[int], tokens: Seq[int]) -> int:
    """Position of the last occurrence of `tokens` in `text`, or NEVER."""
    n, wanted = len(tokens), list(tokens)
    for at in range(len(text) - n, -1, -1):
        if text[at] == wanted[0] and list(text[at : at + n]) == wanted:
            return at
    return NEVER
