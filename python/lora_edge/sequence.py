"""A text in the making: it keeps its KV cache between calls, can be forked, cut back and continued."""

from __future__ import annotations

from collections.abc import Iterator, Sequence as Seq
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
from numpy.typing import NDArray

from . import _core
from .adapter import AdapterSpec, invocations, resolve
from .checks import token_ids
from .invocation import NEVER, last_start

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .generation import Token
    from .model import Model
    from .options import OptionArgs


class Sequence:
    """Tokens of one text with their keys and values. Use a sequence from one thread at a time.

    `ids` are its tokens. The last ones may still wait to be computed: they are fed with the next call. `ahead` are
    tokens of a draft that the core has computed after them: it holds a beginning of ids + ahead.
    """

    def __init__(self, model: Model, adapter: AdapterSpec = None) -> None:
        self.model = model
        self.core = _core.Sequence(model.core, resolve(adapter, model.adapters))
        self._set_invocations(adapter)
        self.ids: list[int] = []
        self.ahead: list[int] = []
        self._adapter = adapter

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def adapter(self) -> AdapterSpec:
        """The adapters of the tokens to come; those already computed keep the keys and values they have."""
        return self._adapter

    @adapter.setter
    def adapter(self, spec: AdapterSpec) -> None:
        adapters = resolve(spec, self.model.adapters)
        self._compute([])
        self.core.set_adapters(adapters)
        self._adapter = spec
        self._set_invocations(spec)
        self.invoke(self.ids)

    def feed(self, ids: Seq[int]) -> None:
        """Appends tokens and computes them, in chunks. ValueError: an id outside the vocabulary, or more
        tokens than the context holds; the sequence is then as before."""
        self._compute(token_ids(ids, self.model.config.n_vocab))

    def extend(self, token: int) -> None:
        """Appends a token without computing it, unless a draft had it."""
        if self.ahead[:1] != [token]:
            self.settle()
        self.ids.append(token)
        del self.ahead[:1]

    @property
    def ready(self) -> bool:
        """Whether the logits after the last token are at hand: no token waits, and none was cut off."""
        return len(self.core) >= len(self.ids) and self.core.ready

    def settle(self) -> None:
        """Forgets what is left of a draft."""
        if len(self.core) > len(self.ids):
            self.core.truncate(len(self.ids))
        self.ahead.clear()

    def logits(self) -> NDArray[np.float32]:
        """[n_vocab] after the last token. ValueError: the sequence is empty."""
        if not self.ids:
            raise ValueError("the sequence is empty: feed it first")
        self._compute([])
        return self.core.logits()

    def truncate(self, n: int) -> None:
        """Keeps the first n tokens."""
        if not 0 <= n <= len(self.ids):
            raise ValueError(f"can't truncate a sequence of {len(self.ids)} tokens to {n}")
        if n < len(self.core):
            self.core.truncate(n)
        self.ahead.clear()
        del self.ids[n:]
        self.invoke(self.ids)

    def fork(self) -> Sequence:
        """A second sequence with the same past; memory is shared until one of them writes."""
        other = object.__new__(Sequence)
        other.model, other.core = self.model, self.core.fork()
        other.ids, other.ahead, other._adapter = list(self.ids), list(self.ahead), self._adapter
        other._invocations, other._starts = self._invocations, list(self._starts)
        return other

    @overload
    def generate(
        self, prompt: str | Seq[int] = ..., *, stream: Literal[True], **options: Unpack[OptionArgs]
    ) -> Iterator[Token]: ...
    @overload
    def generate(
        self, prompt: str | Seq[int] = ..., *, stream: Literal[False] = ..., **options: Unpack[OptionArgs]
    ) -> str: ...
    def generate(
        self, prompt: str | Seq[int] = (), *, stream: bool = False, **options: Unpack[OptionArgs]
    ) -> str | Iterator[Token]:
        """Appends the prompt, if any, and continues it; options as `Model.generate` has them. What was generated
        is part of the sequence afterwards, but for an end token."""
        ids = self._continued(prompt) if isinstance(prompt, str) else token_ids(prompt, self.model.config.n_vocab)
        if stream:
            return self.model.stream(self, ids, options)
        return self.model.run([self], [ids], [options])[0].text

    def _continued(self, text: str) -> list[int]:
        """The text's ids: at the beginning as the file says, later without BOS and without a leading space."""
        if not self.ids:
            return self.model.tokenize(text)
        return self.model.need_tokenizer().encode(text, add_bos=False, after=self.ids[-1])

    def _set_invocations(self, spec: AdapterSpec) -> None:
        self._invocations = invocations(spec, self.model.adapters)
        self._starts = [NEVER if tokens else 0 for tokens in self._invocations]
        if self._starts:
            self.core.set_starts(self._starts)

    def invoke(self, text: Seq[int]) -> None:
        """Lets each activated LoRA (aLoRA) start where its tokens begin last in `text`, what the sequence is to hold;
        before, and where they are missing, the base runs alone. What was computed otherwise is forgotten."""
        if not self._invocations:
            return
        starts = [last_start(text, tokens) if tokens else 0 for tokens in self._invocations]
        changed = [min(old, new) for old, new in zip(self._starts, starts) if old != new]
        if changed and min(changed) < len(self.core):
            self.core.truncate(min(changed))
        self._starts = starts
        self.core.set_starts(starts)

    def _compute(self, ids: list[int]) -> None:
        Sequence.feed_all([(self, ids)])

    @staticmethod
    def feed_all(batch: Seq[tuple[Sequence, list[int]]], drafts: Seq[list[int]] | None = None) -> None:
        """Appends each sequence's new tokens and computes what waits, all in one batch. drafts: for each sequence
        tokens that are computed after these, with the logits after each, but not appended."""
        feeds: list[tuple[_core.Sequence, list[int], int]] = []
        drafted: list[tuple[Sequence, list[int]]] = []
        for (sequence, ids), draft in zip(batch, drafts or [[]] * len(batch)):
            sequence.settle()
            if ids:
                sequence.invoke(sequence.ids + ids)
            waiting = sequence.ids[len(sequence.core) :] + ids
            if not waiting and sequence.ids and not sequence.ready:  # cut back: its logits are gone
                sequence.core.truncate(len(sequence.ids) - 1)
                waiting = sequence.ids[-1:]
            if waiting:
                feeds.append((sequence.core, waiting + draft, 1 + len(draft)))
                drafted.append((sequence, draft))
        lengths = [len(sequence) for sequence, _ in batch]
        try:
            for sequence, ids in batch:
                sequence.ids.extend(ids)
            if feeds:
                batch[0][0].model.core.forward(feeds)
            for sequence, draft in drafted:
                sequence.ahead = list(draft)
        except BaseException:  # an interrupt may be raised when the core has just finished, too
            for (sequence, _), n in zip(batch, lengths):
                sequence.truncate(n)
            raise
