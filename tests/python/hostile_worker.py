"""Runs damaged files through the package in a process of its own, so that a crash is seen from outside.

    python hostile_worker.py FOLDER                                  the crafted files
    python hostile_worker.py FOLDER SEED FIRST COUNT [REAL.gguf ...]  damaged ones, by number

Prints "begin NAME" before each case and "valid NAME", "refused NAME" or "FAIL NAME: what" after it. Each case may add
10 x its file + 64 MB to the address space, and may take 2 s of CPU time.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import crafted_files
import mutations
import numpy as np
from lora_edge.cli import info
from lora_edge.model import Model
from mutations import mlx_folder, peft_folder, torch_folder
from tiny_gguf import Q8_0, tiny_model

SECONDS = 2.0
HANG_SECONDS = 20.0
CHAT = [{"role": "user", "content": "ab"}]


def describe(path: Path) -> None:
    """`lora-edge info`; what it refuses, the runtime may still say more clearly."""
    with open(os.devnull, "w", encoding="utf-8") as out, redirect_stdout(out), suppress_clean():
        info.run(argparse.Namespace(path=str(path), metadata=True, tensors=True, devices=False))


@contextmanager
def suppress_clean() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if verdict(error):
            raise


def use_model(path: Path) -> None:
    describe(path)
    with Model(path, threads=1) as model:
        if not model.config.causal:
            texts = ["ab é", ("a", "b"), [0, 0]] if model.need_encoder().tokenizer else [[0, 0, 0]]
            assert model.embed(texts).shape == (len(texts), model.config.n_embd)
            assert len(model.classify(texts)) == len(texts)
            return
        if model.tokenizer is None:
            model.sequence().feed([0, 0, 0])
            return
        done = model.complete("ab", max_tokens=3, ignore_eos=True, repeat_penalty=1.1, temperature=0.5, top_k=5, seed=1)
        assert len(done.ids) == 3, "fewer than 3 tokens"
        if model.tokenizer.chat_template:
            model.chat(CHAT, max_tokens=1)


def use_adapter(base: Model, path: Path) -> None:
    describe(path)
    try:
        base.load_adapter(path, name="x")
        assert len(base.complete("ab", adapter="x", max_tokens=3, ignore_eos=True).ids) == 3, "fewer than 3 tokens"
    finally:
        if "x" in base.adapters:
            base.unload_adapter("x")


@contextmanager
def limited(extra: int) -> Iterator[None]:
    """Address space: what is used now, and `extra` bytes."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def verdict(error: BaseException) -> str | None:
    """What is wrong with an exception, None if it is a clean one."""
    if not isinstance(error, (ValueError, OSError)) or isinstance(error, UnicodeError):
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    text = str(error)
    if not text or "\n" in text or len(text) > 1000:
        return f"no clear line: {text[:200]!r} ({len(text)} characters)"
    try:
        text.encode()
    except UnicodeError:
        return f"a message that can't be printed: {text[:200]!r}"
    return None


class Cases:
    """What each case shares: the folder, and the base beside which adapters are loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "base.gguf").write_bytes(tiny_model("llama", Q8_0).raw)
        self.base = Model(folder / "base.gguf", threads=1)
        self.peft = peft_folder(folder / "peft")
        self.torch, self.mlx = torch_folder(folder / "torch"), mlx_folder(folder / "mlx")
        for adapter in (self.peft, self.torch, self.mlx):  # imports and caches are made before anything is measured
            use_adapter(self.base, adapter)
        use_model(folder / "base.gguf")
        warnings.simplefilter("error", RuntimeWarning)

    def model(self, name: str, raw: bytes) -> None:
        path = self.folder / "model.gguf"
        path.write_bytes(raw)
        self._judge(name, len(raw), lambda: use_model(path))

    def adapter(self, name: str, raw: bytes) -> None:
        path = self.folder / "adapter.gguf"
        path.write_bytes(raw)
        self._judge(name, len(raw), lambda: use_adapter(self.base, path))

    def peft_adapter(self, name: str, config: bytes, weights: bytes, file: str = "adapter_model.safetensors") -> None:
        path = self.folder / f"damaged {file}"
        path.mkdir(exist_ok=True)
        (path / "adapter_config.json").write_bytes(config)
        (path / file).write_bytes(weights)
        self._judge(name, len(config) + len(weights), lambda: use_adapter(self.base, path))

    def _judge(self, name: str, size: int, use: Callable[[], None]) -> None:
        print(f"begin {name}", flush=True)
        signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)  # its signal ends the process, wherever it is
        begin, wrong, outcome = time.process_time(), None, "valid"
        try:
            with limited(10 * size + (64 << 20)):
                use()
        except BaseException as error:
            outcome, wrong = "refused", verdict(error)
        seconds = time.process_time() - begin
        if seconds > SECONDS:
            wrong = f"took {seconds:.1f} s"
        print(f"FAIL {name}: {wrong}" if wrong else f"{outcome} {name}", flush=True)


def run_crafted(cases: Cases) -> None:
    for name, raw in crafted_files.models():
        cases.model(name, raw)
    for name, raw in crafted_files.gguf_adapters():
        cases.adapter(name, raw)
    for name, config, weights in crafted_files.adapters(cases.peft):
        cases.peft_adapter(name, config, weights)


def run_damaged(cases: Cases, seed: int, first: int, count: int, real: list[Path]) -> None:
    files, parts = mutations.models(real), mutations.adapters()
    for path in real:
        use_model(path)
    for number in range(first, first + count):
        rng = np.random.default_rng([seed, number])
        file, part, other = (mutations.choose(rng, things) for things in (files, parts, files))
        if number % 10 < 6:
            cases.model(str(number), mutations.damage_gguf(rng, file, other))
        elif number % 10 < 8:
            cases.adapter(str(number), mutations.damage_gguf(rng, part, other))
        elif number % 30 == 9:
            cases.peft_adapter(str(number), *mutations.damage_torch(rng, cases.torch), "adapter_model.bin")
        elif number % 30 == 19:
            weights = "adapters.safetensors"
            cases.peft_adapter(str(number), *mutations.damage_peft(rng, cases.mlx, weights), weights)
        else:
            cases.peft_adapter(str(number), *mutations.damage_peft(rng, cases.peft))


if __name__ == "__main__":
    shared = Cases(Path(sys.argv[1]))
    if len(sys.argv) == 2:
        run_crafted(shared)
    else:
        run_damaged(shared, *(int(arg) for arg in sys.argv[2:5]), [Path(arg) for arg in sys.argv[5:]])
