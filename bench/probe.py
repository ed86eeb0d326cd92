"""Run as a process: loads a base and an adapter, reads 64 tokens, writes 24; prints bytes of memory as JSON.

    python bench/probe.py ENGINE BASE ADAPTER THREADS

"imports": peak before loading. "peak": peak resident size at the end, pages of the mapped file included.
"anonymous": the process's own pages at the end, less those before loading. Linux only: from /proc/self/status
(getrusage's ru_maxrss begins with the peak of the process that started this one).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engines import ENGINES


def resident(field: str) -> int:
    """Bytes: VmHWM is the peak resident size, RssAnon the own pages now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this kernel doesn't report {field}")


def main() -> None:
    name, base, adapter, threads = sys.argv[1:]
    if name == "llama.cpp":
        import llama_cpp  # noqa: F401
    before = {"imports": resident("VmHWM"), "anonymous": resident("RssAnon")}
    engine = ENGINES[name](Path(base), {"one": Path(adapter)}, threads=int(threads))
    engine.start()
    engine.use("one")
    engine.feed(list(range(1, 65)))
    for token in range(1, 25):
        engine.feed([token])
    own = resident("RssAnon") - before["anonymous"]
    print(json.dumps({"imports": before["imports"], "peak": resident("VmHWM"), "anonymous": own}))


if __name__ == "__main__":
    main()
