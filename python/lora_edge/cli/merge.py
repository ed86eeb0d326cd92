"""lora-edge merge: adapters into the weights of a base."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .common import add_lora_parts_flag, add_type_flag, lora_parts, progress_bar, table


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "merge",
        help="merge adapters into a base",
        description="Writes W + Σ s·B·A of a base and its adapters as one GGUF model. A table says for each tensor how "
        "far the stored weights are from the exact sum (error), how large the adapters' part is beside the base "
        "(delta), how large the rounding is beside that part (delta error), and how much of the part the stored "
        "weights still hold (kept).",
    )
    p.add_argument("base", metavar="BASE", help="GGUF file or Hugging Face folder")
    add_lora_parts_flag(p, "a GGUF adapter, a PEFT or MLX folder, with its weight; repeatable", required=True)
    p.add_argument("-o", "--outfile", metavar="FILE", required=True, help="the GGUF file to write")
    add_type_flag(p, "of the weights (default: those of the base's file; f16 for a folder)", blocks=True)
    p.add_argument("--json", action="store_true", help="print the table as one JSON object")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..convert.merge import merge

    with progress_bar("merging") as show:
        report = merge(args.base, lora_parts(args.lora), args.outfile, type=args.type, progress=show)
    if args.json:
        return print(json.dumps(report.as_dict(), indent=1))
    rows = [
        [t.name, t.type, f"{t.error:.2e}", f"{t.delta:.2e}", f"{t.delta_error:.2e}", f"{t.kept:.4f}"]
        for t in report.tensors
    ]
    print(table(["tensor", "type", "error", "delta", "delta error", "kept"], rows))
    print(f"wrote {report.path} ({report.path.stat().st_size:,} bytes)")
