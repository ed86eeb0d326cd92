"""Run as a process: loads a base and an adapter, reads 64 tokens, writes 24; prints bytes of memory as JSON.

    python bench/probe.py ENGINE BASE ADAPTER THREADS

"imports": peak before loading. "peak": peak resident size at the end, pages of the mapped file included. "anonymous": the
process's own pages at the end, less those before loading.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from engines import ENGINES


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def anonymous() -> int:
    """Linux: RssAnon of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    name, base, adapter, threads = sys.argv[1:]
    if name == "llama.cpp":
        import llama_cpp  # noqa: F401
    before = {"imports": peak(), "anonymous": anonymous()}
    engine = ENGINES[name](Path(base), {"one": Path(adapter)}, threads=int(threads))
    engine.start()
    engine.use("one")
    engine.feed(list(range(1, 65)))
    for token in range(1, 25):
        engine.feed([token])
    print(json.dumps({**before, "peak": peak(), "anonymous": anonymous() - before["anonymous"]}))


if __name__ == "__main__":
    main()
