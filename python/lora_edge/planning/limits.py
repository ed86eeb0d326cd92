"""What a process may hold here: the machine's memory, that of its control groups, and what the user allows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .process import own_pages

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}
_UNLIMITED = 1 << 60  # control groups of the first version write a number near 2^63


@dataclass(frozen=True)
class Limit:
    """Bytes that one process can be resident with, and what says so."""

    what: str
    n_bytes: int


def parse_size(text: str) -> int:
    """Bytes of "900M", "1.5 GB" or "2GiB"; a bare number counts bytes. ValueError: it is no size."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt]i?)b?|b)?\s*", text.lower())
    size = int(float(found.group(1)) * _UNITS[found.group(2) or ""]) if found else 0
    if size <= 0:
        raise ValueError(f"{text!r} is no size in memory, such as 900M, 1.5GB or 2GiB")
    return size


def limits(memory_limit: int | None = None, processes: int = 1, root: Path = Path("/")) -> list[Limit]:
    """All that are known here, the smallest first. What this process holds itself counts as free: it is part of what
    a run needs. processes: that share the machine, and each have memory_limit. root: where proc and sys lie."""
    own = own_pages(root)
    found = [] if memory_limit is None else [Limit("--memory-limit", memory_limit)]
    available = _fields(root / "proc/meminfo").get("MemAvailable")
    if available is not None:
        found.append(Limit("the machine's available memory", available * 1024 // processes + own))
    found += [Limit(f"the control group {name}", max(0, free) // processes + own) for name, free in _groups(root)]
    return sorted(found, key=lambda limit: limit.n_bytes)


def _groups(root: Path) -> Iterator[tuple[str, int]]:
    """Name and free bytes of the control groups that this process is in, those around it included. Pages of files that
    can be dropped count as free. Inside a container the path of its group may lead nowhere: its own is at the top."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            top, limit, usage = root / "sys/fs/cgroup", "memory.max", "memory.current"
            caches = ("inactive_file", "active_file")
        elif "memory" in controllers.split(","):
            top, limit, usage = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            caches = ("total_inactive_file", "total_active_file")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = top.joinpath(*parts[:depth])
            most = _number(folder / limit)
            if most is None or most >= _UNLIMITED:
                continue
            stat = _fields(folder / "memory.stat")
            used = (_number(folder / usage) or 0) - sum(stat.get(name, 0) for name in caches)
            yield "/" + "/".join(parts[:depth]), most - max(0, used)


def _number(path: Path) -> int | None:
    """None: there is no such file, or it says "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _fields(path: Path) -> dict[str, int]:
    """Lines of "name number" or "name: number kB"."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdigit()}
