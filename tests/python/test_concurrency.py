"""Several threads on one model, interrupts, and lives that end early: the model stays usable and right."""

from __future__ import annotations

import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE
from lora_edge.model import Model
from lora_edge.sequence import Sequence
from tiny_models import (
    Shape,
    fresh_rng,
    random_factors,
    random_ids,
    random_shape,
    random_tensors,
    write_adapter,
    write_model,
)


class Slow:
    """A model big enough that a long prompt takes a while, with an adapter."""

    def __init__(self, folder: Path) -> None:
        self.rng = fresh_rng()
        size = {
            "n_layer": 6,
            "d": 128,
            "n_ff": 384,
            "n_head": 4,
            "n_kv": 2,
            "head_dim": 32,
            "n_ctx": 8192,
            "n_vocab": 300,
            "window": 0,  # all 8,000 positions are seen: it takes a while
        }
        self.shape: Shape = random_shape(self.rng, "llama", whole_blocks=True, **size)
        self.base = write_model(folder / "base.gguf", self.shape, random_tensors(self.rng, self.shape), "q8_0")
        self.adapter = write_adapter(folder / "one.gguf", "llama", random_factors(self.rng, self.shape, r=4))

    def ids(self, n: int) -> list[int]:
        return random_ids(self.rng, self.shape, n)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Slow:
    return Slow(tmp_path_factory.mktemp("slow"))


@pytest.fixture
def model(slow: Slow) -> Iterator[Model]:
    with Model(slow.base, threads=2) as model:
        model.load_adapter(slow.adapter)
        yield model


def interrupted_after(seconds: float, work: Callable[[], object]) -> float:
    """Runs `work` until a SIGINT ends it; the seconds that it took to end."""
    sent = 0.0

    def send() -> None:
        nonlocal sent
        sent = time.monotonic()
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(seconds, send)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with SIGINT ignored
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert sent
        return time.monotonic() - sent
    finally:
        timer.cancel()  # where the work ended before it
        timer.join()
        signal.signal(signal.SIGINT, before)


def test_interrupt_of_a_long_prompt(slow: Slow, model: Model) -> None:
    wanted = model.logits(slow.ids(50), adapter="one")
    sequence = model.sequence(adapter="one")
    start = slow.ids(40)
    sequence.feed(start)
    before = sequence.logits()
    prompt = slow.ids(8000)
    waited = interrupted_after(0.03, lambda: sequence.feed(prompt))
    print(f"interrupted within {waited:.3f} s")
    assert waited < 1.5 * PATIENCE
    assert len(sequence) == 40 and sequence.ids == start
    assert sequence.logits().tobytes() == before.tobytes()
    interrupted_after(0.03, lambda: model.logits(prompt))
    interrupted_after(0.03, lambda: model.score(prompt))
    assert model.logits(start, adapter="one")[-1].tobytes() == before.tobytes()
    assert wanted.shape == (50, 300)


def test_interrupt_of_generation(slow: Slow, model: Model) -> None:
    prompt = slow.ids(10)
    wanted = model.complete(prompt, adapter="one", max_tokens=30).ids
    sequence = model.sequence(adapter="one")
    interrupted_after(0.15, lambda: sequence.generate(prompt, max_tokens=8000))
    assert 10 <= len(sequence) < 8000
    made = sequence.ids[10:]
    assert made[:30] == wanted[: len(made[:30])]
    assert np.isfinite(sequence.logits()).all()
    assert model.complete(prompt, adapter="one", max_tokens=30).ids == wanted
    interrupted_after(0.15, lambda: model.generate_batch([prompt] * 3, max_tokens=8000))
    assert model.complete(prompt, adapter="one", max_tokens=30).ids == wanted


class FinishesThenInterrupts:
    """A core whose forward pass is interrupted when its work is done, before Python knows."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def forward(self, *args: Any, **kwargs: Any) -> None:
        self._core.forward(*args, **kwargs)
        raise KeyboardInterrupt


def test_interrupt_at_the_last_moment(slow: Slow, model: Model) -> None:
    ids = slow.ids(20)
    wanted = model.logits(ids)
    sequence = model.sequence()
    sequence.feed(ids[:12])
    core = model._core
    model._core = FinishesThenInterrupts(core)  # type: ignore[assignment]
    for n in (1, 5):
        with pytest.raises(KeyboardInterrupt):
            sequence.feed(ids[12 : 12 + n])
    model._core = core
    assert sequence.ids == ids[:12] and len(sequence.core) == 12
    assert sequence.logits().tobytes() == wanted[11].tobytes()
    sequence.feed(ids[12:])
    assert sequence.logits().tobytes() == wanted[-1].tobytes()


def test_threads_share_a_model(slow: Slow, model: Model) -> None:
    """Each thread has a sequence of its own; results are those of a quiet model."""
    prompts = [slow.ids(int(n)) for n in slow.rng.integers(1, 120, 6)]
    specs = [None, "one", {"one": 0.5}] * 2

    def complete(i: int) -> list[int]:
        return model.complete(prompts[i], adapter=specs[i], max_tokens=20, temperature=0.8, seed=3).ids

    wanted = [complete(i) for i in range(len(prompts))]
    made: list[list[int] | BaseException] = [[]] * len(prompts)

    def work(i: int) -> None:
        try:
            for _ in range(3):
                made[i] = complete(i)
                model.memory()
        except BaseException as error:
            made[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120 * PATIENCE)
    assert made == wanted


def test_loading_and_unloading_while_texts_run(slow: Slow, model: Model) -> None:
    prompt = slow.ids(20)
    wanted = model.complete(prompt, adapter="one", max_tokens=60).ids
    sequence = model.sequence(adapter="one")
    stream = sequence.generate(prompt, stream=True, max_tokens=60)
    made = [next(stream).id for _ in range(10)]
    model.unload_adapter("one")
    assert "one" not in model.adapters
    gc.collect()
    made += [token.id for token in stream]
    assert made == wanted  # the sequence keeps what it runs with
    with pytest.raises(ValueError, match=r"no adapter 'one' is loaded \(loaded: none\)"):
        model.sequence(adapter="one")
    with pytest.raises(ValueError, match="no adapter 'one'"):
        model.unload_adapter("one")
    model.load_adapter(slow.adapter)
    assert model.complete(prompt, adapter="one", max_tokens=60).ids == wanted


def test_hot_loading_from_another_thread(slow: Slow, model: Model) -> None:
    prompt = slow.ids(20)
    wanted = model.complete(prompt, max_tokens=80).ids
    stop = threading.Event()
    errors: list[BaseException] = []

    def churn() -> None:
        try:
            for i in range(1000):
                if stop.is_set():
                    return
                model.load_adapter(slow.adapter, name=f"hot{i}")
                model.logits(prompt[:3], adapter=f"hot{i}")
                model.unload_adapter(f"hot{i}")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(3):
            assert model.complete(prompt, max_tokens=80).ids == wanted
    finally:
        stop.set()
        thread.join(60 * PATIENCE)
    assert not errors


def test_closing_while_in_use(slow: Slow) -> None:
    model = Model(slow.base)
    prompt = slow.ids(10)
    wanted = model.complete(prompt, max_tokens=20).ids
    sequence = model.sequence()
    stream = model.generate(prompt, stream=True, max_tokens=20)
    made = [next(stream).id]
    model.close()
    model.close()
    for call in (lambda: model.logits(prompt), lambda: model.sequence(), lambda: model.generate(prompt), model.memory):
        with pytest.raises(ValueError, match="closed"):
            call()
    with pytest.raises(ValueError, match="closed"):
        made += [token.id for token in stream]
    assert made == wanted[:1]
    with pytest.raises(ValueError, match="closed"):
        sequence.feed(prompt)


def test_overflow_says_the_numbers(slow: Slow) -> None:
    with Model(slow.base, n_ctx=50) as model:
        sequence = model.sequence()
        sequence.feed(slow.ids(30))
        before = sequence.logits()
        with pytest.raises(ValueError, match=r"30 positions \+ 21 new tokens = 51 exceed the context of 50"):
            sequence.feed(slow.ids(21))
        assert len(sequence) == 30 and sequence.logits().tobytes() == before.tobytes()
        other = model.sequence()
        with pytest.raises(ValueError, match="exceed the context of 50"):
            Sequence.feed_all([(other, slow.ids(5)), (sequence, slow.ids(40))])
        assert len(other) == 0 and len(sequence) == 30
        sequence.feed(slow.ids(20))
        assert len(sequence) == 50
        with pytest.raises(ValueError, match="50"):
            sequence.feed(slow.ids(1))
        for call in (model.logits, model.score):
            with pytest.raises(ValueError, match=r"51.*context of 50"):
                call(slow.ids(51))
        with pytest.raises(ValueError, match="the prompt has 51 tokens, more than the context of 50"):
            model.generate(slow.ids(51))
        with pytest.raises(ValueError, match=r"40 tokens of prompt \+ max_tokens 11 = 51 exceed the context of 50"):
            model.generate(slow.ids(40), max_tokens=11)
        assert len(model.complete(slow.ids(40), max_tokens=10, ignore_eos=True).ids) == 10
        full = model.complete(slow.ids(40), max_tokens=-1)
        assert len(full.ids) == 10 and full.finish_reason == "length"
        for bad in (-1, 300, 1 << 30):
            with pytest.raises(ValueError, match=f"token id {bad} is outside the vocabulary of 300"):
                model.logits([1, bad])
        with pytest.raises(ValueError, match="empty"):
            model.generate([])
        with pytest.raises(ValueError, match="empty"):
            model.logits([])
