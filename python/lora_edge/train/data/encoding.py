"""Texts, completions, conversations and preferences to token ids, with what is to be learned."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ...chat import render_chat
from ...tokenizer import Tokenizer
from .example import Example
from .formats import Chat, Completion, Preference, Text
from .turns import Messages, NotShown, Span, turns

TooLong = Literal["truncate", "split", "drop"]


@dataclass(frozen=True)
class Made:
    """What a line became: no example where it was dropped. cut: tokens that were left out; lost: turns of the assistant
    that the template hides."""

    examples: list[Example]
    cut: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Encoding:
    """How lines become ids for one model.

    n_ctx: the longest example in tokens. mask_prompt: only completions and the assistant's turns are learned.
    chat_template: whether prompts and completions are written as a user's and the assistant's turn; None: where the
    model has a template. too_long: what happens to longer examples; "split" cuts texts to pieces, each token but the
    first learned once, and truncates the rest.
    """

    tokenizer: Tokenizer
    n_ctx: int
    mask_prompt: bool = True
    chat_template: bool | None = None
    too_long: TooLong = "truncate"

    def make(self, record: Text | Completion | Chat | Preference, line: int) -> Made:
        """ValueError: the line holds nothing to learn, or the template refuses it."""
        if isinstance(record, Preference):
            answers = replace(self, mask_prompt=True)  # they are compared: the prompt has no part in it
            chosen, rejected = (answers.make(side, line) for side in (record.chosen, record.rejected))
            if not (chosen.examples and rejected.examples):
                return Made([], chosen.cut + rejected.cut)
            pair = _with_rejected(chosen.examples[0], rejected.examples[0])
            return Made([pair], chosen.cut + rejected.cut, chosen.lost + rejected.lost)
        spans, lost, templated = self._spans(record)
        ids, learn = self._ids(spans, templated)
        if True in learn and self.mask_prompt:  # what stands after the last learned token teaches nothing
            end = len(learn) - learn[::-1].index(True)
            ids, learn = ids[:end], learn[:end]
        if isinstance(record, Text) and self.too_long == "split" and len(ids) > self.n_ctx:
            starts = range(0, len(ids) - 1, self.n_ctx - 1)
            return Made([_example(ids[i : i + self.n_ctx], learn[i : i + self.n_ctx], line) for i in starts])
        cut = max(0, len(ids) - self.n_ctx)
        if cut and self.too_long == "drop":
            return Made([], len(ids))
        n_prompt = learn.index(True) if True in learn and not isinstance(record, Text) else 0
        if n_prompt >= self.n_ctx:
            raise ValueError(
                f"the prompt has {n_prompt} tokens, the context {self.n_ctx}: nothing is left to learn; shorten it, or "
                "raise the maximum length"
            )
        if not self.mask_prompt:
            learn = [True] * len(learn)
        return Made([_example(ids[: self.n_ctx], learn[: self.n_ctx], line, n_prompt)], cut, lost)

    @property
    def uses_template(self) -> bool:
        """Whether prompts and completions go through the chat template."""
        return self.tokenizer.chat_template is not None if self.chat_template is None else self.chat_template

    def _spans(self, record: Text | Completion | Chat) -> tuple[list[Span], int, bool]:
        """Also the turns that were not found, and whether the template wrote the ends."""
        if isinstance(record, Text):
            return [(record.text, True)], 0, False
        completion = None
        if isinstance(record, Completion):
            completion = record.completion
            if not self.uses_template:
                return [(record.prompt, False), (completion, True)], 0, False
            asked, answered = (
                {"role": role, "content": text}
                for role, text in (("user", record.prompt), ("assistant", record.completion))
            )
            record = Chat([asked, answered])
        tools = record.tools

        def render(messages: Messages, header: bool) -> str:
            t = self.tokenizer
            bos, eos = (t.token_text(i) if i is not None else "" for i in (t.bos_id, t.eos_id))
            return render_chat(
                t.chat_template, messages, add_generation_prompt=header, bos_token=bos, eos_token=eos, tools=tools
            )

        if not self.mask_prompt:
            return [(render(record.messages, False), True)], 0, True
        try:
            return *turns(render, record.messages, record.start), True
        except NotShown:
            if completion is None:
                raise
            # A template that writes requests alone: the answer follows.
            return [(render(record.messages[:1], True), False), (completion, True)], 0, False

    def _ids(self, spans: Seq[Span], templated: bool) -> tuple[list[int], list[bool]]:
        """Each span encoded as what goes on from the one before it, so that a prompt has the ids that it has when the
        model is asked. A text and a completion end with the end token; of a template's turn nothing after its own end
        token is learned."""
        t = self.tokenizer
        ids = begin(t, spans[0][0])
        learn = [False] * len(ids)
        for text, said in spans:
            if text:
                new = t.encode(text, add_bos=False, special=True, after=ids[-1] if ids else None)
                ends = [i for i, token in enumerate(new) if token in t.stop_ids] if templated else []
                n_said = (ends[0] + 1 if ends else len(new)) if said else 0
                ids += new
                learn += [i < n_said for i in range(len(new))]
        if not templated and t.eos_id is not None and (not ids or ids[-1] not in t.stop_ids):
            ids.append(t.eos_id)
            learn.append(True)
        if learn:
            learn[0] = False
        return ids, learn


def begin(tokenizer: Tokenizer, text: str) -> list[int]:
    """BOS, where the model wants one and `text` does not bring it."""
    bos = tokenizer.bos_id
    if not tokenizer.add_bos or bos is None or text.startswith(tokenizer.token_text(bos)):
        return []
    return [bos]


def _example(ids: list[int], learn: list[bool], line: int, n_prompt: int = 0) -> Example:
    learn = [False, *learn[1:]]
    if True not in learn:
        raise ValueError(f"all tokens are masked, of {len(ids)} in this model's vocabulary: nothing is left to learn")
    return Example(np.array(ids, np.int32), np.array(learn, np.bool_), line, n_prompt)


def _with_rejected(chosen: Example, rejected: Example) -> Example:
    return Example(chosen.ids, chosen.learn, chosen.line, chosen.n_prompt, rejected=rejected)
