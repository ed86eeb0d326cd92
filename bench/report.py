"""The table at the end of a session: what was measured, both engines' figures, and their ratio."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from engines import Edge, Llama
from paired import ratio

HEADER = ("model", "what", "unit", Edge.name, Llama.name, "ratio (quartiles)", "note")


class Report:
    """Rows in the order of measuring. A ratio is lora_edge / llama.cpp, whatever the unit."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def rate(self, model: str, what: str, tokens: int, seconds: Mapping[str, Sequence[float]], note: str = "") -> None:
        """A speed in tokens/s: more is better."""
        self._add(model, what, "tok/s", {k: [tokens / s for s in v] for k, v in seconds.items()}, note)

    def time(self, model: str, what: str, seconds: Mapping[str, Sequence[float]], note: str = "") -> None:
        """A duration in ms: less is better."""
        self._add(model, what, "ms", {k: [1e3 * s for s in v] for k, v in seconds.items()}, note)

    def size(self, model: str, what: str, n_bytes: Mapping[str, float], note: str = "") -> None:
        """Memory in MB (10⁶ bytes): less is better."""
        self._add(model, what, "MB", {k: [v / 1e6] for k, v in n_bytes.items()}, note)

    def tax(
        self, model: str, what: str, slower: Mapping[str, Sequence[float]], base: Mapping[str, Sequence[float]]
    ) -> None:
        """How much longer than the base alone, in %, of each engine."""
        cells = [f"{100 * (ratio(slower[e], base[e]).median - 1):+.1f}" if e in slower else "-" for e in HEADER[3:5]]
        self.rows.append((model, what, "%", *cells, "", "time over the base alone"))

    def _add(self, model: str, what: str, unit: str, values: Mapping[str, Sequence[float]], note: str) -> None:
        cells = [f"{statistics.median(values[e]):.4g}" if e in values else "-" for e in HEADER[3:5]]
        both = all(e in values for e in HEADER[3:5])
        ratios = str(ratio(values[Edge.name], values[Llama.name])) if both else "-"
        self.rows.append((model, what, unit, *cells, ratios, note))

    def lines(self) -> list[str]:
        rows = [HEADER, *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def machine() -> str:
    """The processor, and how busy it was: figures of a busy machine are worth their ratios only."""
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    flags = facts.get("flags", facts.get("Features", "")).split()
    wide = [f for f in ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "asimddp", "i8mm") if f in flags]
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    model = facts.get("model name", "unknown CPU")
    return f"{model}, {os.cpu_count()} CPUs, {' '.join(wide) or 'no wide flags'}; load {load}"
