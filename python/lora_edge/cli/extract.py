"""lora-edge extract: an adapter from the difference of two models."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .common import add_type_flag, progress_bar, table


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "extract",
        help="make an adapter of a tuned model and its base",
        description="Makes an adapter of the difference of a tuned model and its base, by truncated singular value "
        "decomposition of each linear. A table says how large the difference is beside the weights (delta), what is "
        "left of it (energy), and what is lost (error).",
    )
    p.add_argument("tuned", metavar="TUNED", help="GGUF file or Hugging Face folder")
    p.add_argument("base", metavar="BASE", help="GGUF file or Hugging Face folder of the same architecture")
    p.add_argument(
        "-o", "--outfile", metavar="PATH", required=True, help="the adapter to write: NAME.gguf, or a PEFT folder"
    )
    size = p.add_mutually_exclusive_group(required=True)
    size.add_argument("--rank", metavar="R", type=int, help="of every tensor")
    size.add_argument(
        "--tolerance", metavar="T", type=float, help="each tensor's smallest rank with at most this error"
    )
    p.add_argument("--max-rank", metavar="R", type=int, help="with --tolerance: the largest rank (default 256)")
    p.add_argument("--embeddings", action="store_true", help="adapt the embedding too")
    p.add_argument(
        "--allow-differences",
        action="store_true",
        help="leave tensors that differ and that a LoRA can't say (norms, biases, the embedding) as the base's",
    )
    add_type_flag(p, "of the factors (default f32)", default="f32")
    p.add_argument("--json", action="store_true", help="print the table as one JSON object")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..convert.extract import extract

    with progress_bar("extracting", unit=" tensors") as show:
        report = extract(
            args.tuned, args.base, args.outfile, rank=args.rank, tolerance=args.tolerance, max_rank=args.max_rank,
            embeddings=args.embeddings, allow_differences=args.allow_differences, type=args.type, progress=show,
        )  # fmt: skip
    if args.json:
        return print(json.dumps(report.as_dict(), indent=1))
    rows = [
        [t.name, "×".join(map(str, t.shape)), str(t.rank), f"{t.delta:.2e}", f"{t.energy:.4%}", f"{t.error:.2e}"]
        for t in report.tensors
    ]
    print(table(["tensor", "shape", "rank", "delta", "energy", "error"], rows))
    for name, size in report.left_out.items():
        print(f"left as the base's: {name}, which differs by {size:.2e}")
    if report.over:
        print(f"beyond the tolerance at the largest rank: {', '.join(report.over)}")
    print(f"wrote {report.path}")
