"""How to generate: the options of a call, checked by name before anything runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence as Seq
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from . import _core
from .checks import real, whole

Stop = str | Seq[str] | None
Speculative = Literal["prompt-lookup"] | None
SPECULATIVE = ("prompt-lookup",)
MAX_COUNT = (1 << 31) - 1  # what the core counts with


class Yielding(int):
    """A number that nobody asked for: it gives way where the context ends before."""


DEFAULT_MAX_TOKENS = Yielding(128)


class OptionArgs(TypedDict, total=False):
    """The parameters of `Model.generate` that say how to generate, for annotations."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    seed: int | None
    stop: Stop
    ignore_eos: bool
    speculative: Speculative


@dataclass(frozen=True)
class Options:
    """How to generate, checked; `Model.generate` explains each."""

    max_tokens: int = DEFAULT_MAX_TOKENS
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    stop: Stop = None
    ignore_eos: bool = False
    speculative: Speculative = None

    def __post_init__(self) -> None:
        if not isinstance(self.max_tokens, Yielding):
            self._set("max_tokens", whole("max_tokens", self.max_tokens, -1, MAX_COUNT))
        self._set("top_k", whole("top_k", self.top_k, 0, MAX_COUNT))
        for name in ("temperature", "top_p", "min_p", "repeat_penalty"):
            self._set(name, real(name, getattr(self, name)))
        if self.seed is not None:
            self._set("seed", whole("seed", self.seed, -(1 << 63), (1 << 64) - 1))
        listed = self.stop is None or isinstance(self.stop, (str, Seq))
        if not listed or any(not s or not isinstance(s, str) for s in self.stops):
            raise ValueError(f"stop is {self.stop!r}; it takes a non-empty string or a list of these")
        way = self.speculative
        if way is not None and (not isinstance(way, str) or way not in SPECULATIVE):
            choices = " or ".join(map(repr, SPECULATIVE))
            raise ValueError(f"speculative is {way!r}; it takes None (off) or {choices}")

    def _set(self, name: str, value: float) -> None:
        object.__setattr__(self, name, value)  # the class is frozen

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def sampler(self) -> _core.Sampler:
        seed = int.from_bytes(os.urandom(8), "little") if self.seed is None else self.seed % 2**64
        return _core.Sampler(self.temperature, self.top_k, self.top_p, self.min_p, self.repeat_penalty, seed)


_OPTION_NAMES = tuple(f.name for f in fields(Options))


def make_options(options: Mapping[str, Any]) -> Options:
    """TypeError: an option that doesn't exist, as for any function."""
    for name in options:
        if name not in _OPTION_NAMES:
            raise TypeError(f"unknown option {name!r}; the options are {', '.join(_OPTION_NAMES)}")
    return Options(**options)
