"""A bench's result as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence as Seq
from typing import Any

from .common import plain

ARMS = ("base", "merged", "unmerged")


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Of the object that `measure` gives: about it, the speeds, their share of the peaks, energy, the state."""
    yield from _aligned(_about(result), left=2)
    yield ""
    arms = [arm for arm in ARMS if arm in result["tests"][0]["arms"]]
    yield from _aligned(_speeds(result["tests"], arms), left=1)
    yield ""
    yield from _aligned(_shares(result, arms), left=1)
    yield ""
    yield from _aligned([*_energy(result, arms), *_states(result["state"])], left=2)


def _about(result: Mapping[str, Any]) -> list[list[str]]:
    model, machine = result["model"], result["machine"]
    rows = [["model", plain(f"{model['name'] or model['path']} ({model['architecture']}), {_mb(model['file_bytes'])}")]]
    for adapter in result["adapters"]:
        ranks = ", ".join(map(str, adapter["ranks"]))
        weight = "" if adapter["weight"] == 1 else f", weight {adapter['weight']:g}"
        rows.append(["adapter", plain(f"{adapter['name']}, rank {ranks}, {_mb(adapter['bytes'])}{weight}")])
    rows.append(["machine", plain(f"{machine['cpu']}, kernels {machine['isa']}")])
    if machine["device"] != "cpu":
        rows.append(["device", plain(f"{machine['device']}, {machine['device_name']}")])
    return rows


def _speeds(tests: Seq[Mapping[str, Any]], arms: Seq[str]) -> list[list[str]]:
    rows = [["tokens/s", "threads", *arms, "tax"]]
    for test in tests:
        cells = [_pm(test["arms"][arm]) for arm in arms]
        rows.append([test["test"], str(test["threads"]), *cells, f"{test['tax_percent']['unmerged']:+.1f} %"])
    return rows


def _pm(figures: Mapping[str, Any]) -> str:
    digits = 1 if figures["tokens_per_second"] >= 100 else 2
    return f"{figures['tokens_per_second']:.{digits}f} ± {figures['deviation']:.{digits}f}"


def _shares(result: Mapping[str, Any], arms: Seq[str]) -> list[list[str]]:
    peaks = {p["threads"]: p for p in result["machine"]["peaks"]}
    rows = [["share of peak", "threads", *arms, "peak"]]
    for test in result["tests"]:
        decode = test["test"].startswith("tg")
        rate, share = (
            ("bytes_per_second", "share_of_read_bandwidth")
            if decode
            else ("operations_per_second", "share_of_int8_peak")
        )
        peak = peaks.get(test["threads"])
        most = (
            "-"
            if peak is None
            else f"{(peak['read_bandwidth'] if decode else 2 * peak['int8_multiply_adds']) / 1e9:.1f}"
        )
        cells = []
        for arm in arms:
            part = test["arms"][arm][share]
            cells.append(f"{test['arms'][arm][rate] / 1e9:.1f}" + ("" if part is None else f" ({100 * part:.0f} %)"))
        rows.append([f"{test['test']} {'GB/s' if decode else 'GOPS'}", str(test["threads"]), *cells, most])
    return rows


def _energy(result: Mapping[str, Any], arms: Seq[str]) -> list[list[str]]:
    energy = result["energy"]
    if energy["source"] is None:
        return [["tokens/J", f"not available: {energy['why_not']}"]]
    rows = []
    for test in result["tests"]:
        each = [(arm, test["arms"][arm]["tokens_per_joule"]) for arm in arms]
        text = ", ".join(f"{arm} {value:.2f}" for arm, value in each if value is not None) or "no change was read"
        rows.append(["tokens/J", f"{test['test']}, {test['threads']} threads: {text} ({energy['source']})"])
    return rows


def _states(states: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    return [[when, _state(state)] for when, state in states.items()]


def _state(state: Mapping[str, Any]) -> str:
    parts = []
    if state["temperatures"]:
        name, celsius = max(state["temperatures"].items(), key=lambda zone: zone[1])
        parts.append(f"{celsius:.1f} °C in {name}, the hottest zone")
    if state["clocks"]:
        low, high = min(state["clocks"].values()), max(state["clocks"].values())
        parts.append(f"{low:.0f} MHz" if low == high else f"{low:.0f}-{high:.0f} MHz")
    if state["throttles"] is not None:
        parts.append(f"slowed for heat {state['throttles']} times so far")
    if state["flags"] is not None:
        parts.append(", ".join(state["flags"]) or "never throttled")
    return plain("; ".join(parts)) or "this system tells no temperature, clock or throttling"


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"


def _aligned(rows: Seq[Seq[str]], left: int) -> Iterator[str]:
    """Columns of equal width; the first `left` begin, the others end below one another."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        yield "  ".join(cells).rstrip()
