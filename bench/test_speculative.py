"""Prompt-lookup speculation beside plain decoding, through the public API: the same tokens, in how much time.

Random weights answer nothing, so each kind of text is made for it:

- "loop": greedy, after a prompt that greedy decoding made: such texts circle, and drafts are now right, now wrong.
- "copy": a model told what to say. The sampler is replaced by one that reads the tokens of a given text, a copy of the
  prompt with some tokens changed (0, 5, 15 %); passes, drafts and sampling cost what they cost.
- "free": temperature 1, drawn from the random model's flat distribution: no pair of tokens comes twice, nothing is
  drafted, and what is left is the price of looking.
- "wrong": the told text runs through a prompt that holds each of its pairs with another token after it, so that each
  guess is wrong: the most that drafting can lose.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from engines import Edge, Engine
from lora_edge import _core
from lora_edge.generation import Completion, Run
from lora_edge.model import Model
from models import RANK, Files
from paired import Arm, in_turns, ratio
from report import Report

N = 192  # tokens of each text, of ids below 300
OTHER = 383  # every shape's vocabulary has it
LOSS = 1.03  # most of plain's time where nothing repeats
GAIN = 1.5  # least speed-up of a text that repeats its prompt
JUDGED = 7  # rounds from which on times are held against these: fewer show that it runs
ONE_IN = {"0 %": 0, "5 %": 20, "15 %": 7}


class Told:
    """A sampler that says a given text; it does the work of the one it stands for."""

    def __init__(self, sampler: _core.Sampler, text: list[int]) -> None:
        self._sampler, self._text = sampler, iter(text)

    def accept(self, token: int) -> None:
        self._sampler.accept(token)

    def sample(self, sequence: _core.Sequence, length: int) -> tuple[int, float]:
        self._sampler.sample(sequence, length)
        return next(self._text), 0.0


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[int]], None]]:
    """Has each run from now on say the text."""
    start = Run.start.__func__  # type: ignore[attr-defined]

    def to_say(text: list[int]) -> None:
        def told_start(cls: type[Run], *args: Any) -> Run:
            run: Run = start(cls, *args)
            run.sampler = Told(run.sampler, text)  # type: ignore[assignment]
            return run

        monkeypatch.setattr(Run, "start", classmethod(told_start))

    yield to_say


def edited(text: list[int], one_in: int, draw: random.Random) -> list[int]:
    return [draw.randrange(300, OTHER) if one_in and draw.random() < 1 / one_in else token for token in text]


def misled(draw: random.Random) -> tuple[list[int], list[int]]:
    """A prompt and a text: each pair of the text's tokens stands in the prompt, with another token after it."""
    text = [draw.randrange(1, 300) for _ in range(N)]
    prompt = [token for a, b in pairwise(text) for token in (a, b, OTHER)]
    return [*prompt, text[0], text[1]], text[2:]


@pytest.fixture
def compare(
    benchmark: Any, files: Files, engines: dict[str, Engine], rounds: int, report: Report
) -> Callable[..., float]:
    """Times decoding, without the prompt, both ways; gives speculative time over plain time, the median of rounds."""

    def compare(what: str, prompt: list[int], **options: Any) -> float:
        seconds: dict[str, list[float]] = {"plain": [], "speculative": []}
        last: dict[str, Completion] = {}

        def arm(name: str, **more: Any) -> Arm:
            def run() -> None:
                last[name] = model_of(engines).complete(prompt, ignore_eos=True, **options, **more)
                seconds[name].append(last[name].timings.generated_seconds)

            return Arm(lambda: None, run)

        benchmark.group = f"{files.model} speculative {what}"
        arms = {"plain": arm("plain"), "speculative": arm("speculative", speculative="prompt-lookup")}
        in_turns(benchmark, arms, rounds)
        assert last["plain"].ids == last["speculative"].ids
        times = {name: values[-rounds:] for name, values in seconds.items()}
        over, t = ratio(times["speculative"], times["plain"]), last["speculative"].timings
        for name in arms:
            note = f"{over} x plain's time; {t.accepted} of {t.drafted} drafted accepted" if name != "plain" else ""
            report.rate(files.model, f"{name} {what}", t.generated_tokens - 1, {Edge.name: times[name]}, note=note)
        return over.median

    return compare


def model_of(engines: dict[str, Engine]) -> Model:
    engine = engines[Edge.name]
    assert isinstance(engine, Edge)
    return engine.model


@pytest.mark.parametrize("adapter", [None, "one"], ids=["base", f"r{RANK}"])
def test_loop(adapter: str | None, compare: Callable[..., float], engines: dict[str, Engine]) -> None:
    prompt = list(range(1, 9))
    prompt += model_of(engines).complete(prompt, adapter=adapter, max_tokens=2 * N, ignore_eos=True).ids
    compare(f"loop{'' if adapter is None else f' r{RANK}'}", prompt, adapter=adapter, max_tokens=N)


@pytest.mark.parametrize("changed", list(ONE_IN))
def test_copy(changed: str, compare: Callable[..., float], tell: Callable[[list[int]], None], rounds: int) -> None:
    draw = random.Random(7)
    prompt = [draw.randrange(1, 300) for _ in range(N)]
    tell(edited(prompt, ONE_IN[changed], draw))
    over = compare(f"copy, {changed} changed", prompt, max_tokens=N)
    if changed == "0 %" and rounds >= JUDGED:
        assert 1 / over >= GAIN


def test_free(compare: Callable[..., float], rounds: int) -> None:
    over = compare("free", list(range(1, 65)), temperature=1.0, seed=1, max_tokens=N)
    assert rounds < JUDGED or over <= LOSS


def test_wrong(compare: Callable[..., float], tell: Callable[[list[int]], None]) -> None:
    prompt, text = misled(random.Random(3))
    tell(text)
    compare("wrong", prompt, max_tokens=len(text))
