"""lora-edge plan: the memory that a run will need, before it begins."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from typing import Any

from ..planning import MemoryPlan, plan
from ..train.settings import Settings
from .common import add_memory_limit_flag
from .train_flags import add_settings_flags, settings_of

_NAMES = {
    "base": "Python and libraries",
    "weights": "weights (pages of the file)",
    "adapters": "adapters",
    "float_weights": "weights in float32",
    "kv_cache": "keys and values",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "activations": "activations",
    "logits": "logits, or passing gradients",
    "scattered": "freed, but scattered",
}


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "plan",
        help="say what a run will need in memory",
        description="Says what a run will need in memory, from the file's header alone: inference, or training where a "
        "flag of training is given. The exit status is 3 where it doesn't fit.",
    )
    g = p.add_argument_group("model")
    g.add_argument("-m", "--model", metavar="FILE", help="GGUF file (default: the built-in model)")
    g.add_argument("-t", "--threads", metavar="N", type=int, help="threads (default: one per physical core)")
    g = p.add_argument_group("inference")
    g.add_argument("-c", "--ctx-size", metavar="N", type=int, help="tokens of the text (default: as trained)")
    g.add_argument("--kv-type", choices=("auto", "f32", "f16", "q8_0"), default="auto", help="type of keys and values")
    g.add_argument("--lora", metavar="FILE", action="append", default=[], help="adapter; repeatable")
    add_settings_flags(p)
    g = p.add_argument_group("limits and output")
    add_memory_limit_flag(g)
    g.add_argument("--json", action="store_true", help="print one JSON object, sizes in bytes")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    trains = args.preset or args.option or any(getattr(args, f.name, None) is not None for f in fields(Settings))
    if trains and (args.lora or args.ctx_size is not None):
        raise ValueError(
            "-c and --lora are for inference, --method and the other settings for training: plan one of them"
        )
    made = plan(
        args.model, settings=settings_of(args) if trains else None, n_ctx=args.ctx_size, kv_type=args.kv_type,
        adapters=args.lora, threads=args.threads, memory_limit=args.memory_limit,
    )  # fmt: skip
    print(json.dumps(made.as_dict(), indent=1) if args.json else "\n".join(table(made)))
    return 0 if made.fits else 3


def table(made: MemoryPlan) -> list[str]:
    rows = [(_NAMES[part], size) for part, size in made.parts.items() if size]
    rows.append(("peak", made.peak))
    width = max(len(name) for name, _ in rows)
    lines = [f"{made.task}: {made.path}"]
    lines += [f"  {name:<{width}}  {size / 1e6:>9,.1f} MB" for name, size in rows]
    return [*lines, made.verdict()]
