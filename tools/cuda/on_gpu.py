#!/usr/bin/env python3
"""Times models on this machine's GPU, and writes the figures into bench/LOG.md: what `make gpu` does after its tests.

    python tools/cuda/on_gpu.py [--device cuda:0] [--log bench/LOG.md] [SHAPE | FILE.gguf ...]

SHAPE is one of tools/make_model.py's, whose file of random weights is made once under build/bench. Arms take turns in
every round; ratios are medians of rounds. What a token reads is set against copies within the GPU's memory. Where torch
with PEFT, or llama.cpp with CUDA, is installed beside lora_edge, it takes turns, too.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import lora_edge
from lora_edge import _core
from lora_edge.bench.work import adapter_bytes, work_of
from lora_edge.convert.random_adapter import write_random_adapter
from lora_edge.devices import device_name
from lora_edge.model import Model

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from paired import ratio  # noqa: E402
from peers import Peer, not_measured, peers  # noqa: E402

SHAPES = ["smollm2-135m", "tinyllama-1.1b", "llama2-7b"]
ROUNDS, PROMPT, TOKENS, TEXTS, SWITCHES, RANK = 9, 512, 64, 8, 300, 16


def file_of(shape: str) -> Path:
    """A model file: as given, or of a shape."""
    if shape.endswith(".gguf"):
        return Path(shape)
    path = ROOT / "build" / "bench" / shape / "base.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(ROOT / "tools/make_model.py"), "base", shape, str(path)], check=True)
    return path


def seconds(arms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Of each arm in every round, after one that warms up. An arm ends when its next token can be chosen."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for i in range(rounds + 1):
        for name, run in arms.items():
            begin = time.perf_counter()
            run()
            if i > 0:
                found[name].append(time.perf_counter() - begin)
    return found


def shown(over: list[float], under: list[float]) -> str:
    r = ratio(over, under)
    return f"{r.median:.3f} ({r.low:.3f}-{r.high:.3f})"


def decode(model: Model, adapter: str | None, tokens: int) -> Callable[[], object]:
    def run() -> None:
        sequence = model.sequence(adapter=adapter)
        for _ in range(tokens):
            sequence.feed([42])

    return run


def prefill(model: Model, adapter: str | None, prompt: int) -> Callable[[], object]:
    return lambda: model.sequence(adapter=adapter).feed([i % 100 for i in range(prompt)])


def together(model: Model, adapters: list[str | None], tokens: int) -> Callable[[], object]:
    def run() -> None:
        sequences = [model.sequence(adapter=adapter) for adapter in adapters]
        for _ in range(tokens):
            lora_edge.Sequence.feed_all([(sequence, [42]) for sequence in sequences])

    return run


def switches(model: Model, names: list[str], steps: int) -> float:
    """Seconds that a token takes longer after a switch than after the same adapter's."""
    sequence = model.sequence(adapter=names[0])
    steady, switched = [], []
    for i in range(2 * steps):
        switch = i % 2 == 1
        if switch:
            sequence.adapter = names[i // 2 % 2]
        begin = time.perf_counter()
        sequence.feed([42])
        (switched if switch else steady).append(time.perf_counter() - begin)
        if len(sequence) + 1 >= min(model.n_ctx, 256):
            sequence.truncate(1)
    return statistics.median(switched) - statistics.median(steady)


def measured(path: Path, device: str, copies: float, peak: float, rounds: int) -> Iterator[str]:
    """Lines of a table about one model."""
    with lora_edge.load(path, device=device) as model:
        names = [f"r{RANK}-{i}" for i in range(TEXTS)]
        for i, name in enumerate(names):
            at = path.parent / f"{name}.gguf"
            if not at.exists():
                write_random_adapter(path, at, rank=RANK, seed=i)
            model.load_adapter(at, name=name)
        tokens, prompt = min(TOKENS, model.n_ctx - 1), min(PROMPT, model.n_ctx)
        work, title = work_of(model), path.parent.name
        steps = seconds({"off": decode(model, None, tokens), "on": decode(model, names[0], tokens)}, rounds)
        each = statistics.median(steps["off"]) / tokens
        share = work.decode_bytes((tokens - 1) / 2) / each / copies
        bytes_tax = adapter_bytes(model, names[:1]) / work.weights
        yield f"| {title} | tg{tokens} | {1 / each:.1f} tokens/s, {100 * share:.0f} % of the copies' bytes/s |"
        tax = shown(steps["on"], steps["off"])
        yield f"| {title} | tg{tokens}, r {RANK} / off | {tax}; by bytes {1 + bytes_tax:.3f} |"
        reads = seconds({"off": prefill(model, None, prompt), "on": prefill(model, names[0], prompt)}, rounds)
        each = statistics.median(reads["off"])
        used = work.prefill_multiply_adds(prompt) / each / peak
        yield f"| {title} | pp{prompt} | {prompt / each:.0f} tokens/s, {100 * used:.0f} % of the int8 peak |"
        yield f"| {title} | pp{prompt}, r {RANK} / off | {shown(reads['on'], reads['off'])} |"
        none: list[str | None] = [None] * TEXTS
        batch = seconds({"off": together(model, none, tokens), "on": together(model, [*names], tokens)}, rounds)
        kv = work.kv * tokens / 2 * TEXTS
        allowed = (work.weights + kv) / (work.weights + kv + adapter_bytes(model, names))
        share_kept = shown(batch["off"], batch["on"])
        yield f"| {title} | {TEXTS} adapters: speed / without | {share_kept}; by bytes {allowed:.3f} |"
        yield f"| {title} | a switch | {1e6 * switches(model, names[:2], SWITCHES):+.0f} µs |"
        for peer in peers(model, path.parent / f"{names[0]}.gguf", RANK, device):
            yield from beside(model, names[0], peer, title, prompt, tokens, rounds)


def beside(
    model: Model, adapter: str, peer: Peer | str, title: str, prompt: int, tokens: int, rounds: int
) -> Iterator[str]:
    """How much longer a peer takes for the same work, with an adapter each."""
    if isinstance(peer, str):
        yield f"| {title} | beside others | {peer} |"
        return
    for what, mine, theirs in (
        (f"pp{prompt}", prefill(model, adapter, prompt), lambda: peer.prompt(prompt)),
        (f"tg{tokens}", decode(model, adapter, tokens), lambda: peer.tokens(tokens)),
    ):
        try:
            found = seconds({"ours": mine, "theirs": theirs}, rounds)
        except Exception as error:  # there may be no room for both
            yield f"| {title} | beside others | {what}, {not_measured(peer.name, error)} |"
            return
        yield f"| {title} | {what}, r {RANK}: {peer.name} / ours | {shown(found['theirs'], found['ours'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--log", type=Path, default=ROOT / "bench" / "LOG.md")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("models", nargs="*", default=SHAPES)
    args = parser.parse_args()
    index = int(args.device.partition(":")[2] or 0)
    if problem := _core.cuda_self_test(index):
        sys.exit(f"{args.device} can't be used: {problem}")
    copies, peak = _core.cuda_copy_bandwidth(index, 1.0), _core.cuda_int8_peak(index, 1.0)
    driver = _core.cuda_driver()[0]
    lines = [
        "",
        f"## {datetime.date.today()} · {device_name(args.device)}, CUDA {driver // 1000}.{driver % 1000 // 10}",
        "",
        f"`python tools/cuda/on_gpu.py {' '.join(args.models)}`, {args.rounds} rounds. Copies within its memory "
        f"{copies / 1e9:.0f} GB/s; byte products {2 * peak / 1e12:.1f} TOPS.",
        "",
        "| model | what | figure |",
        "| --- | --- | --- |",
    ]
    for name in args.models:
        for line in measured(file_of(name), args.device, copies, peak, args.rounds):
            print(line, flush=True)
            lines.append(line)
    with args.log.open("a") as log:
        log.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
