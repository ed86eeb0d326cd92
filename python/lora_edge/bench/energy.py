"""Joules, where a machine can tell: the counters of RAPL (x86), or the power sensors of boards such as Jetsons."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType

from .sensors import ROOT, number, text

PERIOD = 0.02  # s between two looks at a power sensor
INA = ("ina219", "ina220", "ina226", "ina230", "ina231", "ina260", "ina3221")  # TI's power monitors
WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "VDD IN")  # rails that feed all the others
INA3221_CHANNELS = range(1, 4)


class Meter(ABC):
    """`joules()` counts up from 0; `source` says from where."""

    source: str

    @abstractmethod
    def joules(self) -> float: ...

    def __enter__(self) -> Meter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class Rapl(Meter):
    """Energy counters in µJ, one per package, each of which begins again at its own end."""

    def __init__(self, zones: list[Path]) -> None:
        self.source = f"RAPL, {', '.join(text(zone / 'name') for zone in zones)}"
        self._zones = {zone: number(zone / "max_energy_range_uj") or 0.0 for zone in zones}
        self._last = {zone: self._read(zone) for zone in zones}
        self._sum = 0.0

    def joules(self) -> float:
        for zone, end in self._zones.items():
            now = self._read(zone)
            step = now - self._last[zone]
            self._sum += (step if step >= 0 else step + end) * 1e-6
            self._last[zone] = now
        return self._sum

    @staticmethod
    def _read(zone: Path) -> float:
        value = number(zone / "energy_uj")
        return 0.0 if value is None else value


class Sampled(Meter):
    """The integral of power readings, by a thread that looks every PERIOD seconds while the meter is entered."""

    def __init__(self, watts: Callable[[], float], source: str) -> None:
        self.source = source
        self._watts = watts
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._sum, self._power, self._at = 0.0, watts(), time.perf_counter()

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def joules(self) -> float:
        with self._lock:
            now, power = time.perf_counter(), self._watts()
            self._sum += (now - self._at) * (self._power + power) / 2
            self._at, self._power = now, power
            return self._sum

    def _sample(self) -> None:
        while not self._stop.wait(PERIOD):
            self.joules()


def open_meter(root: Path = ROOT) -> Meter | str:
    """The machine's meter, or why there is none."""
    zones = [z for z in sorted((root / "sys/class/powercap").glob("intel-rapl:*")) if z.name.count(":") == 1]
    packages = [z for z in zones if text(z / "name").startswith("package")]
    readable = [z for z in packages if number(z / "energy_uj") is not None]
    if readable:
        return Rapl(readable)
    sensors = [s for hwmon in sorted((root / "sys/class/hwmon").glob("hwmon*")) for s in _power_sensors(hwmon)]
    whole = [(name, watts) for name, watts in sensors if name in WHOLE_BOARD]
    chosen = whole[:1] or sensors
    if chosen:
        names = ", ".join(name for name, _ in chosen)
        return Sampled(lambda: sum(watts() for _, watts in chosen), f"power sensors, {names}")
    if packages:
        return f"{packages[0] / 'energy_uj'} can't be read by this user"
    return "this system has no RAPL counters and no power sensors"


def _power_sensors(hwmon: Path) -> list[tuple[str, Callable[[], float]]]:
    """(name, watts) of each channel that can be read."""
    kind = text(hwmon / "name")
    if kind not in INA:
        return []
    if kind != "ina3221":
        file = hwmon / "power1_input"  # µW
        return [(kind, lambda: (number(file) or 0.0) * 1e-6)] if number(file) is not None else []
    found: list[tuple[str, Callable[[], float]]] = []
    for i in INA3221_CHANNELS:
        volts, amperes = hwmon / f"in{i}_input", hwmon / f"curr{i}_input"  # mV, mA
        if number(volts) is not None and number(amperes) is not None:
            name = text(hwmon / f"in{i}_label") or f"{kind} {i}"
            found.append((name, partial(_product, volts, amperes)))
    return found


def _product(millivolts: Path, milliamperes: Path) -> float:
    return (number(millivolts) or 0.0) * (number(milliamperes) or 0.0) * 1e-6
