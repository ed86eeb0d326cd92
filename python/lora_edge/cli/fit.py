"""lora-edge fit: an adapter refitted to the quantised base that it runs beside."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .common import add_type_flag, progress_bar, read_text, table


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "fit",
        help="refit an adapter to its quantised base",
        description="Refits the factors of an adapter so that the quantised base with it says what the original base "
        "with the given one says, on a calibration text; a fifth of the text is held out, and the table shows the "
        "error of each linear's output there, before and after.",
    )
    p.add_argument("model", metavar="MODEL", help="GGUF file: the base as deployed")
    p.add_argument("--lora", metavar="FILE", required=True, help="the adapter: a GGUF adapter or a PEFT folder")
    p.add_argument(
        "--against", metavar="BASE", required=True, help="the base it was trained on: GGUF file or Hugging Face folder"
    )
    p.add_argument("--text", metavar="FILE", required=True, help="calibration text, like what the model will read")
    p.add_argument("-o", "--outfile", metavar="FILE", required=True, help="the GGUF adapter to write")
    p.add_argument("-n", "--tokens", metavar="N", type=int, help="use this many at most (default 16384)")
    p.add_argument("--extra-rank", metavar="R", type=int, default=0, help="add to each tensor's rank (default 0)")
    p.add_argument("--every-linear", action="store_true", help="give the linears without an adapter the extra rank too")
    add_type_flag(p, "of the factors (default f16)", default="f16")
    p.add_argument("--json", action="store_true", help="print the report as one JSON object")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..fitting.repair import DEFAULT_TOKENS, fit

    with progress_bar("fitting", unit=" tensors") as show:
        report = fit(
            args.model, args.lora, args.against, args.outfile, text=read_text(args.text),
            tokens=DEFAULT_TOKENS if args.tokens is None else args.tokens, extra_rank=args.extra_rank,
            every_linear=args.every_linear, type=args.type, progress=show,
        )  # fmt: skip
    if args.json:
        return print(json.dumps(report.as_dict(), indent=1))
    rows = [
        [t.name, str(t.rank), f"{t.before:.2e}", f"{t.after:.2e}", _less(t.before, t.after)] for t in report.tensors
    ]
    rows.append(["all", "", f"{report.before:.2e}", f"{report.after:.2e}", _less(report.before, report.after)])
    for what in ("kl", "mean_abs"):
        old, new = (float(getattr(d, what)) for d in (report.logits_before, report.logits_after))
        rows.append(
            [f"logits, {'KL' if what == 'kl' else 'mean |Δ|'}", "", f"{old:.2e}", f"{new:.2e}", _less(old, new)]
        )
    print(table(["output error, held out", "rank", "before", "after", "change"], rows))
    print(f"fitted to {report.tokens:,} tokens, measured on {report.held_tokens:,} others")
    print(f"wrote {report.path} ({report.path.stat().st_size:,} bytes)")


def _less(before: float, after: float) -> str:
    return f"{after / before - 1:+.1%}" if before else "-"
