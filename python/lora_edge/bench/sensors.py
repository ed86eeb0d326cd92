"""What the system says of its own state: temperatures, clocks, throttling. Hot machines give other figures."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")

# Bits of the firmware's word on a Raspberry Pi (vcgencmd get_throttled); 16 higher: has happened since it started.
THROTTLED = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}


@dataclass(frozen=True)
class State:
    """One look at the machine. Empty or None: the system doesn't tell.

    temperatures: °C by thermal zone. clocks: MHz now by cpufreq policy. throttles: how often cores were slowed for
    their heat since the start, summed. flags: of a Raspberry Pi's firmware, such as "throttled now".
    """

    temperatures: dict[str, float]
    clocks: dict[str, float]
    throttles: int | None
    flags: list[str] | None


def look(root: Path = ROOT) -> State:
    """The state now, from sysfs under `root`; the firmware is asked on a live system only."""
    return State(temperatures(root), clocks(root), throttles(root), firmware_flags() if root == ROOT else None)


def temperatures(root: Path = ROOT) -> dict[str, float]:
    """°C by the zone's type; zones of one type are told apart by their number, those that can't be read left out."""
    found: dict[str, float] = {}
    for zone in _numbered(root / "sys/class/thermal", "thermal_zone"):
        value = number(zone / "temp")
        if value is not None:
            name = text(zone / "type") or zone.name
            found[f"{name} {zone.name.removeprefix('thermal_zone')}" if name in found else name] = value / 1000
    return found


def clocks(root: Path = ROOT) -> dict[str, float]:
    """MHz now by cpufreq policy."""
    found = {}
    for policy in _numbered(root / "sys/devices/system/cpu/cpufreq", "policy"):
        value = number(policy / "scaling_cur_freq")
        if value is not None:
            found[policy.name] = value / 1000
    return found


def throttles(root: Path = ROOT) -> int | None:
    counts = [
        number(cpu / "thermal_throttle/core_throttle_count")
        for cpu in _numbered(root / "sys/devices/system/cpu", "cpu")
    ]
    known = [count for count in counts if count is not None]
    return int(sum(known)) if known else None


def firmware_flags() -> list[str] | None:
    """What vcgencmd tells, where it is there and answers."""
    command = shutil.which("vcgencmd")
    if command is None:
        return None
    try:
        done = subprocess.run([command, "get_throttled"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_throttled(done.stdout)


def parse_throttled(answer: str) -> list[str] | None:
    """ "throttled=0x50005" -> what its bits mean, [] if none is set; None if it is no such answer."""
    key, _, value = answer.strip().partition("=")
    try:
        word = int(value, 16)
    except ValueError:
        return None
    if key != "throttled":
        return None
    now = [f"{name} now" for bit, name in THROTTLED.items() if word >> bit & 1]
    return now + [f"{name} before" for bit, name in THROTTLED.items() if word >> (16 + bit) & 1]


def cpu_name(root: Path = ROOT) -> str:
    """The processor's or the board's name."""
    for line in text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    return text(root / "proc/device-tree/model").strip("\0 \n") or "unknown CPU"


def text(path: Path) -> str:
    """The stripped contents of a file of the system; "" where it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def number(path: Path) -> float | None:
    """The number in a file of the system; None where there is none."""
    try:
        return float(text(path))
    except ValueError:
        return None


def _numbered(folder: Path, prefix: str) -> Iterator[Path]:
    """folder/prefixN in the order of N."""
    found = [p for p in folder.glob(f"{prefix}*") if p.name.removeprefix(prefix).isdigit()]
    return iter(sorted(found, key=lambda p: int(p.name.removeprefix(prefix))))
