"""What the machine can do, measured as one more arm of a suite: in the same rounds as what is set against it."""

from __future__ import annotations

from collections.abc import Callable

from lora_edge import _core
from paired import Arm

SECONDS = 0.25  # of a probe


class Peak:
    """`arm` probes; `values` has what it found, of the last rounds. Bytes/s, or multiply-adds/s."""

    def __init__(self, probe: Callable[[], float]) -> None:
        self._found: list[float] = []
        self.arm = Arm(lambda: None, lambda: self._found.append(probe()))

    def values(self, rounds: int) -> list[float]:
        return self._found[-rounds:]


def read_bandwidth(threads: int) -> Peak:
    return Peak(lambda: _core.probe_read_bandwidth(threads, SECONDS))


def int8_peak(threads: int) -> Peak:
    return Peak(lambda: _core.probe_int8_peak(threads, SECONDS))
