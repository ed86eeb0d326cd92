#!/usr/bin/env python3
"""Tables and figures of what experiment.py measured.

python tools/experiments/report.py build/experiments/results.jsonl --figures docs
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

matplotlib.use("Agg")

Line = dict[str, Any]
COLOURS = ("#1f5f99", "#d1495b", "#3a7d44", "#e39a2d", "#6b4c9a", "#4a4a4a")


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def compress(lines: dict[str, Line]) -> str:
    rows = []
    full = lines["full"]
    plain = full["bits"]["tinystories"]
    rounded = {name: bits["tinystories"] for name, bits in full["rounded"].items()}
    values = {
        "float, before": plain["before"],
        "Q4_0, before": rounded["before q4_0"],
        "float, trained": plain["after"],
        "Q4_0, trained and then rounded": rounded["after q4_0"],
        "Q4_0, trained as Q4_0 (`qat`)": lines["qat"]["bits"]["tinystories"]["after"],
        "half of the weights zero, with recovery (`prune`)": lines["prune-recover"]["bits"]["tinystories"]["after"],
        "half of the weights zero after training": lines["prune-after"]["bits"]["tinystories"]["after"],
        "student, labels alone": lines["student-labels"]["bits"]["tinystories"]["after"],
        "student, with a teacher (`distil`)": lines["student-distil"]["bits"]["tinystories"]["after"],
    }
    rows = [[name, f"{value:.4f}"] for name, value in values.items()]
    gap, left = rounded["after q4_0"] - plain["after"], values["Q4_0, trained as Q4_0 (`qat`)"] - plain["after"]
    share = f"Q4_0's gap at equal steps: {gap:.4f} bits by rounding, {left:.4f} by qat: {left / gap:.2f} of it\n"
    return table(["TinyStories-656K on TinyStories", "bits per character"], rows) + share


def adapt(lines: dict[str, Line]) -> str:
    rows = []
    for name, line in lines.items():
        play, stories = line["bits"]["tinyshakespeare"], line["bits"]["tinystories"]
        if not rows:
            rows.append(["before", f"{play['before']:.3f}", f"{stories['before']:.3f}", "", ""])
        rows.append(
            [
                name,
                f"{play['after']:.3f}",
                f"{stories['after']:.3f}",
                f"{line['peak_mb']:.0f}",
                f"{line['seconds']:.0f}",
            ]
        )
    return table(["", "tinyshakespeare", "TinyStories", "peak, MB", "s"], rows)


def classify(lines: dict[str, Line]) -> str:
    rows = []
    for name, line in lines.items():
        test, most = line["scores"]["test"], line["scores"]["before"]["accuracy"]
        scores = [f"{test[x]:.3f}" for x in ("accuracy", "f1_macro", "mcc")]
        rows.append([name, f"{most:.3f}", *scores, f"{line['peak_mb']:.0f}", f"{line['seconds']:.0f}"])
    return table(["", "commonest class", "accuracy", "F1", "MCC", "peak, MB", "s"], rows)


TABLES: dict[str, Callable[[dict[str, Line]], str]] = {"compress": compress, "adapt": adapt, "classify": classify}
# Title, and run: label of each line.
PANELS = {
    "compress": [
        ("the grid of Q4_0", {"full": "full: loss of the float weights", "qat": "qat: loss of the Q4_0 weights"}),
        (
            "half of the weights zero",
            {"full": "full: none is", "prune-recover": "prune: with recovery", "prune-after": "prune: after training"},
        ),
        ("a smaller student", {"student-labels": "labels alone", "student-distil": "with a teacher"}),
    ],
    "adapt": [
        (
            "tinyshakespeare, held out",
            {"full": "full", **{f"lora-r{rank}": f"lora, rank {rank}" for rank in (1, 4, 16, 64)}},
        )
    ],
    "classify": [
        ("CLINC150, held out", {"clinc150-full": "full", "clinc150-lora": "lora, rank 16"}),
        ("paraphrases, held out", {"paraphrase-full": "full", "paraphrase-lora": "lora, rank 64"}),
    ],
}


def draw(group: str, lines: dict[str, Line], out: Path) -> None:
    """Held-out loss over steps, a panel for each comparison."""
    out.parent.mkdir(parents=True, exist_ok=True)
    panels = PANELS[group]
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(1.5 + 4.5 * len(panels), 4), dpi=110, layout="constrained", squeeze=False
    )
    for place, (title, names) in zip(axes[0], panels):
        for colour, (name, label) in zip(COLOURS, names.items()):
            steps, losses = zip(*lines[name]["curve"])
            place.plot(steps, losses, color=colour, marker="o", markersize=4, linewidth=2, label=label)
        place.set(title=title, xlabel="step", ylabel="nats per learned token")
        place.grid(alpha=0.3)
        place.spines[["top", "right"]].set_visible(False)
        place.legend(frameon=False)
    figure.savefig(out)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--figures", type=Path, help="the folder for experiment-GROUP.png")
    args = parser.parse_args(argv)
    lines = [json.loads(line) for line in args.results.read_text("utf-8").splitlines()]
    for group, make in TABLES.items():
        found = {line["run"]["name"]: line for line in lines if line["group"] == group}
        if found:
            print(make(found))
            if args.figures is not None:
                draw(group, found, args.figures / f"experiment-{group}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
