#!/usr/bin/env python3
"""Runs experiments of training, each in a process of its own, and writes a line of results for each.

    python tools/experiments/experiment.py compress adapt classify -o build/experiments

A run whose line is there is not made again. report.py makes tables and figures of the lines.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from bases import base
from runs import RUNS, Measured, Run

TASKS = Path(__file__).resolve().parents[1] / "tasks" / "make_task.py"
RESULTS = "results.jsonl"
HELD_OUT = 72  # texts that bits are measured on


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", choices=RUNS)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        (run,) = (r for r in RUNS[args.groups[0]] if r.name == args.one)
        print(json.dumps(asdict(measure(args.groups[0], run, args.out))))
        return 0
    results = args.out / RESULTS
    args.out.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.exists() else []
    done = {(line["group"], line["run"]["name"]) for line in lines}
    for group in args.groups:
        for run in RUNS[group]:
            if (group, run.name) not in done:
                print(f"{group}: {run.name}", file=sys.stderr, flush=True)
                command = [sys.executable, __file__, group, "-o", str(args.out), "--one", run.name]
                line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
                with open(results, "a", encoding="utf-8") as file:
                    file.write(line + "\n")
    return 0


def data(name: str, out: Path) -> Path:
    folder = out / "tasks" / name
    if not folder.exists():
        subprocess.run([sys.executable, TASKS, name, "-o", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def measure(group: str, run: Run, out: Path) -> Measured:
    """Trains, and measures the files that were written as they are served. Time is the trainer's own, without that of
    measuring."""
    from lora_edge.train import Plan, train
    from lora_edge.train.output import read_metrics

    words = {**run.words, "options": dict(run.words["options"])}
    if "teacher" in words["options"]:
        words["options"]["teacher"] = str(base(words["options"]["teacher"], out / "bases"))
    before, folder = out / "runs" / f"{group}-{run.base}" / "model.gguf", out / "runs" / f"{group}-{run.name}"
    path = before if run.base in {r.name for r in RUNS[group]} else base(run.base, out / "bases")
    shutil.rmtree(folder, ignore_errors=True)
    every = max(1, words["steps"] // 5)
    done = train(
        path, data(run.data, out), folder, plan=Plan(log_every=10, eval_every=every), type="f32", threads=1,
        say=lambda line: None, **words,
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    metrics = read_metrics(folder / "metrics.jsonl")
    losses = [m for m in metrics if "valid_loss" in m]
    known = {"step", "valid_loss"}
    found = Measured(
        group, run.as_dict(), steps=done.result.steps, tokens=done.result.tokens, seconds=done.result.seconds,
        peak_mb=peak, curve=[(m["step"], m["valid_loss"]) for m in losses],
        facts={k: v for k, v in losses[-1].items() if k not in known},
        scores={split: scores.as_dict() for split, scores in done.scores.items()},
    )  # fmt: skip
    model = folder / "model.gguf"
    for text in run.texts:
        held_out = data(text, out)
        after = bits(model, None, held_out) if model.exists() else bits(path, folder, held_out)
        found.bits[text] = {"before": bits(path, None, held_out), "after": after}
    if run.labelled:
        found.scores["before"] = guessing(path, data(run.data, out))
    for type in run.also:
        for name, source in (("before", path), ("after", model)):
            made = written_as(source, folder / f"{name}-{type}.gguf", type)
            found.rounded[f"{name} {type}"] = {text: bits(made, None, data(text, out)) for text in run.texts}
    return found


def bits(model: Path, adapter: Path | None, folder: Path) -> float:
    """Per character, of the folder's test texts, by the runtime."""
    import lora_edge
    from lora_edge.train.data import load_data
    from lora_edge.train.metrics import bits_per, text_size

    with lora_edge.load(model, threads=1) as loaded:
        name = None if adapter is None else loaded.load_adapter(adapter, name="trained").name
        tokenizer = loaded.need_tokenizer()
        examples = load_data(folder, tokenizer, n_ctx=512).test[:HELD_OUT]
        nats = sum(-float(loaded.score(e.ids.tolist(), adapter=name)[e.learn[1:]].sum()) for e in examples)
        return bits_per(nats, text_size(examples, tokenizer.decode)[0])


def guessing(model: Path, folder: Path) -> dict[str, float]:
    """Accuracy of the commonest class of the test texts: what knowing nothing gives."""
    import lora_edge
    from lora_edge.train.data import load_data

    with lora_edge.load(model, threads=1) as loaded:
        labels = [e.label for e in load_data(folder, loaded.need_tokenizer(), n_ctx=512).test]
    return {"accuracy": max(map(labels.count, set(labels))) / len(labels)}


def written_as(model: Path, out: Path, type: str) -> Path:
    from lora_edge.convert.merge import merge

    return merge(model, [], out, type=type).path


if __name__ == "__main__":
    sys.exit(main())
