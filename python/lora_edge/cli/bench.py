"""lora-edge bench: how fast a model runs here, alone and with an adapter, and what bounds it."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from typing import Any

from ..bench.arms import MERGED_BY_DEFAULT, prepared
from ..bench.energy import Meter, open_meter
from ..bench.measure import measure
from ..bench.runs import Test
from ..checks import whole
from ..model import MAX_THREADS, Model
from ..options import MAX_COUNT
from ..threads import default_threads
from .bench_table import lines
from .common import add_model_flags, load_model

DEFAULT_TESTS = {"pp": 512, "tg": 128}
MAX_REPEATS = 1 << 16


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "bench",
        help="measure speed with and without an adapter",
        description="Measures prefill (ppN: one prompt of N tokens) and decoding (tgN: N tokens one after another) of "
        "the base alone, with the adapter merged into it, and with the adapter beside it, in turns. Without --lora the "
        "adapter is a random one of all seven linears. Weights' values don't matter, nor does the text.",
    )
    add_model_flags(p, several_threads=True)
    g = p.add_argument_group("measuring")
    g.add_argument("-p", "--n-prompt", metavar="N[,N...]", help="prompt lengths; 0: none (default 512)")
    g.add_argument("-n", "--n-gen", metavar="N[,N...]", help="numbers of tokens to decode; 0: none (default 128)")
    g.add_argument("-r", "--repetitions", metavar="N", type=int, default=5, help="runs of each test (default 5)")
    g.add_argument("--rank", metavar="R", type=int, default=16, help="of the random adapter (default 16)")
    g.add_argument(
        "--merged",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="merge the adapter into a temporary copy of the base and measure that too (default: where the base has "
        f"at most {MERGED_BY_DEFAULT >> 20} MiB)",
    )
    g.add_argument(
        "--peaks",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure what the machine can read and multiply, to compare with (default)",
    )
    g.add_argument("--json", action="store_true", help="print one JSON object, which docs/bench.md describes")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    threads = _numbers("-t", args.threads, 1, MAX_THREADS) if args.threads else [default_threads()]
    repeats = whole("-r", args.repetitions, 1, MAX_REPEATS)

    def open_model(count: int) -> tuple[Model, dict[str, float]]:
        return load_model(argparse.Namespace(**{**vars(args), "threads": count}))

    with ExitStack() as stack:
        model, weights = open_model(threads[0])
        tests = _tests(args, model.n_ctx)
        files = stack.enter_context(prepared(model, weights, args.rank, args.merged))
        model.close()
        meter = open_meter()
        if isinstance(meter, Meter):
            stack.enter_context(meter)
        runs = len(threads) * len(tests) * (repeats + 1) * (3 if files.merged else 2)
        bar = stack.enter_context(tqdm(desc="measuring", total=runs, disable=None, leave=False))
        result = measure(
            files, open_model, tests, threads, repeats, meter=meter, peaks=args.peaks, tick=lambda: bar.update()
        )
    print(json.dumps(result, indent=1) if args.json else "\n".join(lines(result)))


def _tests(args: argparse.Namespace, n_ctx: int) -> list[Test]:
    """ValueError: a test doesn't fit into the context, or there is none."""
    tests = []
    for kind, flag, given in (("pp", "-p", args.n_prompt), ("tg", "-n", args.n_gen)):
        if given is None:
            tests.append(Test(kind, min(DEFAULT_TESTS[kind], n_ctx)))
            continue
        for n in _numbers(flag, given, 0, MAX_COUNT):
            if n > n_ctx:
                raise ValueError(f"{flag} {n} is more than the context of {n_ctx} tokens: give less, or -c with more")
            if n:
                tests.append(Test(kind, n))
    if not tests:
        raise ValueError("nothing to measure: -p and -n are both 0")
    return tests


def _numbers(flag: str, given: str, low: int, high: int) -> list[int]:
    """The whole numbers of "512,1024", each once. ValueError: there is something else in it."""
    parts = given.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise ValueError(f"{flag} {given!r} is not a whole number, nor several with commas between them")
    return list(dict.fromkeys(whole(flag, int(part), low, high) for part in parts))
