"""What the process of a training run is told before torch is loaded."""

from __future__ import annotations

import ctypes
import os

from ..threads import default_threads

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEPT = 256 << 20  # bytes of free memory that aren't given back
LARGEST = 32 << 20  # the most that glibc takes for M_MMAP_THRESHOLD


def prepare() -> None:
    """Freed activations stay with the process, since the next step needs as many: no page is zeroed twice."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    mallopt(M_MMAP_THRESHOLD, LARGEST)
    mallopt(M_TRIM_THRESHOLD, KEPT)


def rank() -> int:
    """Of this process among those that torchrun started; 0 where it didn't."""
    return int(os.environ.get("RANK", "0"))


def threads(given: int | None) -> int | None:
    """As given; else the machine's share of each of torchrun's processes on it, or None: the default."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, default_threads() // here) if given is None and here > 1 else given
