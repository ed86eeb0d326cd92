"""The work that suites time: a prompt at once, or token after token. No sampling."""

from __future__ import annotations

import random

from engines import Engine
from paired import Arm


def tokens(n: int) -> list[int]:
    draw = random.Random(n)
    return [draw.randrange(1, 300) for _ in range(n)]


def prefill(engine: Engine, adapter: str | None, n: int) -> Arm:
    ids = tokens(n)
    return Arm(lambda: (engine.start(), engine.use(adapter)), lambda: engine.feed(ids))


def decode(engine: Engine, adapter: str | None, n: int) -> Arm:
    ids = tokens(n)

    def prepare() -> None:
        engine.start()
        engine.use(adapter)
        engine.feed(ids[:1])

    def run() -> None:
        for token in ids:
            engine.feed([token])

    return Arm(prepare, run)
