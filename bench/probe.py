"""Run as a process: loads a base and an adapter, reads 64 tokens, writes 24; prints seconds and bytes as JSON.

    python bench/probe.py lora_edge|llama.cpp BASE ADAPTER THREADS
    python bench/probe.py core BASE - THREADS                           # lora_edge's core: no tokenizer, no adapter

"load": seconds from the base's file to a model that is ready, nothing of it in this process before. "imports": peak
before loading. "peak": peak resident size at the end, pages of the mapped file included; "beside_file": the most that
was resident without the base's pages, after loading or at the end. "anonymous": the process's own pages at the end,
less those before loading; "kv": the core's keys and values among them. Linux only: from /proc/self (getrusage's
ru_maxrss begins with the peak of the process that started this one).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from engines import ENGINES, N_CTX, Engine
from lora_edge import _core


def resident(field: str) -> int:
    """Bytes: VmHWM is the peak resident size, VmRSS the size now, RssAnon the own pages now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this kernel doesn't report {field}")


def of_file(path: Path) -> int:
    """Resident bytes of a file's mappings."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):
            inside = line.endswith(str(path.resolve()))
        elif inside and first == "Rss:":
            total += int(line.split()[1]) * 1024
    return total


class Core:
    """The part of lora_edge that is no Python."""

    def __init__(self, base: Path, *, threads: int) -> None:
        self.model = _core.Model(str(base), N_CTX, threads, "auto")
        self.sequence = _core.Sequence(self.model, [])

    def feed(self, ids: Sequence[int]) -> None:
        self.model.forward([(self.sequence, ids, 1)])


def main() -> None:
    name, base, adapter, threads = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    if name == "llama.cpp":
        import llama_cpp  # noqa: F401
    before = {"imports": resident("VmHWM"), "anonymous": resident("RssAnon")}
    begin = time.perf_counter()
    engine = Core(base, threads=threads) if name == "core" else ENGINES[name](base, threads=threads)
    seconds = time.perf_counter() - begin
    if isinstance(engine, Engine):
        engine.load_adapter("one", adapter)
        engine.start()
        engine.use("one")
    loaded = resident("VmHWM") - of_file(base)
    engine.feed(list(range(1, 65)))
    for token in range(1, 25):
        engine.feed([token])
    own = resident("RssAnon") - before["anonymous"]
    found = {
        "load": seconds,
        "imports": before["imports"],
        "peak": resident("VmHWM"),
        "beside_file": max(loaded, resident("VmRSS") - of_file(base)),
        "anonymous": own,
        "kv": engine.model.kv_bytes if isinstance(engine, Core) else None,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
