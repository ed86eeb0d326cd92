"""A conversation as the chat template writes it, cut where the assistant begins and ends to speak."""

from __future__ import annotations

from collections.abc import Callable, Sequence as Seq
from typing import Any

Messages = Seq[dict[str, Any]]
Render = Callable[[Messages, bool], str]  # messages, and whether the assistant's header follows

Span = tuple[str, bool]  # a piece of text, and whether the assistant says it


class NotShown(ValueError):
    """The template hides all that the assistant says."""


def turns(render: Render, messages: Messages, start: int = 0) -> tuple[list[Span], int]:
    """The spans of the whole conversation, and how many turns of the assistant from message `start` on were not found.

    A turn begins where the template would let the assistant speak and ends where it ends without what comes after.
    Templates that write earlier turns anew (that leave out their reasoning, say) make such places disappear; then
    that turn is not found. ValueError: the template refuses the conversation. NotShown: all turns are lost.
    """
    whole = render(messages, False)
    spans: list[Span] = []
    at = lost = 0
    for i, message in enumerate(messages):
        if message["role"] != "assistant" or i < start:
            continue
        place = _place(render, messages, i, whole, at)
        if place is None:
            lost += 1
            continue
        spans += [(whole[at : place[0]], False), (whole[place[0] : place[1]], True)]
        at = place[1]
    if not spans:
        raise NotShown(
            "the model's chat template does not show where the assistant begins to speak: nothing can be learned "
            "(mask_prompt=False learns all of it)"
        )
    return [*spans, (whole[at:], False)], lost


def _place(render: Render, messages: Messages, i: int, whole: str, at: int) -> tuple[int, int] | None:
    """Where message `i` begins and ends in `whole`, not before `at`."""
    if i == 0:
        return None  # nobody has spoken yet, and most templates refuse to begin so
    try:
        before, after = render(messages[:i], True), render(messages[: i + 1], False)
    except ValueError:
        return None
    begin, end = len(before), len(after)
    if whole.startswith(before) and whole.startswith(after) and at <= begin < end:
        return begin, end
    return None
