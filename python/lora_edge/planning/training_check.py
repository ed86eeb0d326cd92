"""Before a run of training begins: whether it fits beside what the process holds already."""

from __future__ import annotations

import os
from collections.abc import Sequence as Seq
from dataclasses import replace

from ..model import Model
from ..train.data import Example
from ..train.settings import Settings
from .header import read_header
from .needs import plan_training
from .process import resident


def check_memory(base: Model, settings: Settings, examples: Seq[Example], memory_limit: str | int | None) -> None:
    """MemoryError, with cheaper settings: it can't fit. Of several processes of torchrun each has its part of a batch,
    and of the machine's memory."""
    processes, here = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    own = replace(settings, batch_size=max(settings.accumulate, settings.batch_size // processes))
    longest = settings.max_length if settings.pack else max(len(example) for example in examples)
    plan_training(
        read_header(base.path), own, memory_limit,
        length=longest, threads=base.core.threads, base=resident(), processes=here,
    ).check()  # fmt: skip
