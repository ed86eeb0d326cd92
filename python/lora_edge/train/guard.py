"""What must not end a run in ruins: signals, and heat."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from ..bench.sensors import temperatures

COOLER = 5.0  # °C below the limit before work goes on


class Stop:
    """Set by Ctrl-C or SIGTERM; a second one ends the process at once."""

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def graceful() -> Iterator[Stop]:
    """While this is open, the first SIGINT or SIGTERM only sets the result."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: FrameType | None) -> None:
        if stop:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)
        stop.signal = number

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def cool_down(limit: float, say: Callable[[str], None], stop: Stop, poll: float = 5.0) -> float:
    """Waits while a sensor is above `limit` °C until all are COOLER below it; the seconds waited. ValueError: the
    machine has no sensor."""
    heat = temperatures()
    if not heat:
        raise ValueError("[train] --max-temp is given, but this machine tells no temperature")
    if max(heat.values()) <= limit:
        return 0.0
    started = time.monotonic()
    name = max(heat, key=lambda n: heat[n])
    say(f"{name} is at {heat[name]:.0f} °C, above {limit:.0f}: waiting for {limit - COOLER:.0f}")
    while max(temperatures().values()) > limit - COOLER and not stop:
        time.sleep(poll)
    return time.monotonic() - started
