"""How many threads suit this machine."""

from __future__ import annotations

import os
from pathlib import Path


def default_threads() -> int:
    """One per physical core that this process may use, and on big.LITTLE machines one per big core: two threads
    of a core share the units that a matrix product keeps busy, and a small core holds up the big ones.

    LORA_EDGE_THREADS overrides it. Read from /sys/devices/system/cpu; where that is absent, the CPU count.
    """
    forced = os.environ.get("LORA_EDGE_THREADS")
    if forced:
        if not forced.isdigit() or int(forced) < 1:
            raise ValueError(f"LORA_EDGE_THREADS={forced!r} is not a positive number")
        return int(forced)
    return len(big_cores())


def big_cores() -> list[int]:
    """A CPU of each physical core that this process may use, of the big ones where sizes differ."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores: dict[str, tuple[int, int]] = {}  # siblings -> (cpu, capacity)
    for cpu in sorted(cpus):
        root = Path(f"/sys/devices/system/cpu/cpu{cpu}")
        siblings = _read(root / "topology/thread_siblings_list") or str(cpu)
        cores.setdefault(siblings, (cpu, int(_read(root / "cpu_capacity") or 1024)))
    biggest = max((capacity for _, capacity in cores.values()), default=1024)
    return [cpu for cpu, capacity in cores.values() if 2 * capacity > biggest] or [0]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
