"""The generation loop: many sequences side by side, one row each per step and one per token of a draft; stop strings,
streaming, timings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence as Seq
from dataclasses import dataclass, field
from typing import NamedTuple

from . import _core
from .options import Options, Yielding
from .prompt_lookup import MAX_ROWS, PromptLookup
from .sequence import Sequence
from .tokenizer import TokenStream


class Token(NamedTuple):
    """One generated token. `text` is what became complete with it: parts of a character, and text that may be
    the beginning of a stop string, come with a later token. `logprob` is the model's, before temperature."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class Timings:
    """Wall time of a completion in seconds, with the numbers of tokens that it covers. `drafted` tokens were guessed
    by speculation, `accepted` of them were right and cost no pass of their own."""

    prompt_tokens: int
    prompt_seconds: float
    generated_tokens: int
    generated_seconds: float
    drafted: int = 0
    accepted: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Of decoding: the first token comes from the prompt's logits and isn't counted. 0 where it is all there is."""
        return max(0, self.generated_tokens - 1) / self.generated_seconds if self.generated_seconds > 0 else 0.0


@dataclass(frozen=True)
class Completion:
    """A finished text. `ids` and `logprobs` [n] hold every sampled token, the end token included.

    finish_reason: "stop" (an end token or a stop string) or "length" (max_tokens; where it was not given or is
    -1, also the end of the context).
    """

    text: str
    ids: list[int]
    logprobs: list[float]
    finish_reason: str
    timings: Timings


class StopFilter:
    """Passes text on until a stop string appears; holds back what may yet become one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        if not self._stops:
            return text
        held = self._held + text
        hits = [at for s in self._stops if (at := held.find(s)) >= 0]
        if hits:
            self.stopped = True
            self._held = ""
            return held[: min(hits)]
        keep = max(_overlap(held, s) for s in self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[len(text) - n :]):
            return n
    return 0


@dataclass
class Run:
    """One sequence's generation in progress."""

    sequence: Sequence
    options: Options
    sampler: _core.Sampler
    stream: TokenStream | None
    stop_ids: frozenset[int]
    limit: int
    prompt_tokens: int
    filter: StopFilter
    lookup: PromptLookup | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    prompt_seconds: float = 0.0
    started: float = 0.0
    seconds: float = 0.0

    @classmethod
    def start(cls, sequence: Sequence, prompt: Seq[int], options: Options) -> Run:
        """Checks that the text will fit; nothing is computed yet."""
        model = sequence.model
        used, n_ctx = len(sequence) + len(prompt), model.n_ctx
        if used == 0:
            raise ValueError("the prompt is empty: there is nothing to continue")
        advice = "" if n_ctx == model.config.n_ctx_max else ", or load the model with a larger n_ctx (-c)"
        limit = options.max_tokens
        if used > n_ctx or (used == n_ctx and limit != 0):
            room = f"more than the context of {n_ctx}" if used > n_ctx else f"all of the context of {n_ctx}"
            raise ValueError(f"the prompt has {used} tokens, {room}: shorten it{advice}")
        if limit == -1:
            limit = n_ctx - used
        elif isinstance(limit, Yielding):
            limit = min(n_ctx - used, limit)
        if used + limit > n_ctx:
            raise ValueError(
                f"{used} tokens of prompt + max_tokens {limit} = {used + limit} exceed the context of {n_ctx}: "
                f"lower max_tokens (-n; -1: to the end of the context), shorten the prompt{advice}"
            )
        tokenizer = model.tokenizer
        if options.stops and tokenizer is None:
            raise ValueError("stop strings need a tokenizer, which this model's file doesn't have")
        sampler = options.sampler()
        text = [*sequence.ids, *prompt]
        for token in text[-64:]:
            sampler.accept(token)
        lookup = PromptLookup(text) if options.speculative else None
        stream = tokenizer.stream(continuation=True) if tokenizer else None
        stop_ids = tokenizer.stop_ids if tokenizer and not options.ignore_eos else frozenset()
        stop_filter = StopFilter(options.stops)
        return cls(sequence, options, sampler, stream, stop_ids, limit, len(prompt), stop_filter, lookup)

    def sample(self) -> Token:
        """The next token from the sequence's logits; sets `finish_reason` when it is the last."""
        token, logprob = self.sampler.sample(self.sequence.core, len(self.sequence))
        self.sampler.accept(token)
        if self.lookup:
            self.lookup.push(token, drafted=self.sequence.ahead[:1] == [token])
        self.ids.append(token)
        self.logprobs.append(logprob)
        text = ""
        if token in self.stop_ids:
            self.finish_reason = "stop"
        else:
            self.sequence.extend(token)
            text = self.filter.push(self.stream.push(token)) if self.stream else ""
            if self.filter.stopped:
                self.finish_reason = "stop"
            elif len(self.ids) >= self.limit:
                self.finish_reason = "length"
        if self.finish_reason and not self.filter.stopped and self.stream:
            text += self.filter.push(self.stream.flush()) + self.filter.flush()
        if self.finish_reason:
            self.sequence.settle()
        self.texts.append(text)
        self.seconds = time.perf_counter() - self.started
        return Token(token, text, logprob)

    def draft(self, room: int) -> list[int]:
        """Up to `room` tokens that may follow the last one; none that max_tokens or the context would cut off."""
        if self.lookup is None:
            return []
        left = min(self.limit - len(self.ids) - 1, self.sequence.model.n_ctx - len(self.sequence))
        return self.lookup.draft(min(room, left))

    def completion(self) -> Completion:
        drafts = (self.lookup.drafted, self.lookup.accepted) if self.lookup else (0, 0)
        timings = Timings(self.prompt_tokens, self.prompt_seconds, len(self.ids), self.seconds, *drafts)
        return Completion("".join(self.texts), self.ids, self.logprobs, self.finish_reason or "length", timings)


def steps(runs: Seq[Run], prompts: Seq[Seq[int]]) -> Iterator[tuple[int, Token]]:
    """Feeds the prompts, then one row per unfinished sequence and step; yields (index of the run, token).

    A run with drafts feeds one row more per drafted token and samples after each in turn, as it would without, as long
    as the draft agrees: its tokens and draws don't depend on the drafts."""
    begin = time.perf_counter()
    Sequence.feed_all([(run.sequence, list(prompt)) for run, prompt in zip(runs, prompts)])
    now = time.perf_counter()
    for run in runs:
        run.prompt_seconds, run.started = now - begin, now
        if run.limit == 0:
            run.finish_reason = "length"
    active = [i for i, run in enumerate(runs) if run.finish_reason is None]
    while active:
        for i in active:
            yield i, runs[i].sample()
            while runs[i].finish_reason is None and runs[i].sequence.ready:
                yield i, runs[i].sample()
        active = [i for i in active if runs[i].finish_reason is None]
        room = MAX_ROWS // len(active) - 1 if active else 0
        drafts = [runs[i].draft(room) for i in active]
        Sequence.feed_all([(runs[i].sequence, []) for i in active], drafts)
