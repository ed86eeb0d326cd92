"""The table at the end of a session: what was measured, both engines' figures, and their ratio."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from engines import Edge, Llama
from paired import Ratio, ratio

HEADER = ("model", "what", "unit", Edge.name, Llama.name, "ratio (quartiles)", "target", "bound", "note")
ENGINE_CELLS = HEADER[3:5]


class Report:
    """Rows in the order of measuring. A ratio is lora_edge / llama.cpp, whatever the unit. target: what lora_edge must
    reach; bound: what nothing can pass, in the row's unit."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def rate(
        self,
        model: str,
        what: str,
        tokens: int,
        seconds: Mapping[str, Sequence[float]],
        *,
        target: str = "",
        bound: str = "",
        note: str = "",
    ) -> None:
        """A speed in tokens/s: more is better."""
        speeds = {k: [tokens / s for s in v] for k, v in seconds.items()}
        self._add(model, what, "tok/s", speeds, target, bound, note)

    def time(
        self,
        model: str,
        what: str,
        seconds: Mapping[str, Sequence[float]],
        *,
        unit: str = "ms",
        target: str = "",
        note: str = "",
    ) -> None:
        """A duration in ms or µs: less is better."""
        factor = {"ms": 1e3, "µs": 1e6}[unit]
        self._add(model, what, unit, {k: [factor * s for s in v] for k, v in seconds.items()}, target, "", note)

    def size(
        self, model: str, what: str, n_bytes: Mapping[str, float], *, target: str = "", bound: str = "", note: str = ""
    ) -> None:
        """Memory in MB (10⁶ bytes): less is better."""
        self._add(model, what, "MB", {k: [v / 1e6] for k, v in n_bytes.items()}, target, bound, note)

    def tax(
        self,
        model: str,
        what: str,
        slower: Mapping[str, Sequence[float]],
        base: Mapping[str, Sequence[float]],
        *,
        target: str = "",
        bound: str = "",
        note: str = "time over the base alone",
    ) -> None:
        """How much longer than the base, in %, of each engine, with quartiles."""
        cells = [_percent(ratio(slower[e], base[e]), minus=1) if e in slower else "-" for e in ENGINE_CELLS]
        self.rows.append((model, what, "%", *cells, "", target, bound, note))

    def share(
        self,
        model: str,
        what: str,
        part: Mapping[str, Sequence[float]],
        whole: Mapping[str, Sequence[float]],
        *,
        target: str = "",
        bound: str = "",
        note: str = "",
    ) -> None:
        """part / whole in %, of each engine, with quartiles."""
        cells = [_percent(ratio(part[e], whole[e])) if e in part else "-" for e in ENGINE_CELLS]
        self.rows.append((model, what, "%", *cells, "", target, bound, note))

    def _add(
        self,
        model: str,
        what: str,
        unit: str,
        values: Mapping[str, Sequence[float]],
        target: str,
        bound: str,
        note: str,
    ) -> None:
        cells = [_figure(statistics.median(values[e])) if e in values else "-" for e in ENGINE_CELLS]
        ours, theirs = (values.get(e, ()) for e in ENGINE_CELLS)
        comparable = len(ours) == len(theirs) > 0 and min(*ours, *theirs) > 0
        self.rows.append(
            (model, what, unit, *cells, str(ratio(ours, theirs)) if comparable else "-", target, bound, note)
        )

    def lines(self) -> list[str]:
        rows = [HEADER, *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _figure(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.4g}"


def _percent(r: Ratio, minus: int = 0) -> str:
    median, low, high = (f"{100 * (x - minus):{'+' if minus else ''}.1f}" for x in r)
    return f"{median} ({low} to {high})"


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
