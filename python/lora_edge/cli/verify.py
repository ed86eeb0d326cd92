"""lora-edge verify: whether a model says what its source, or another program, says."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from .common import add_lora_parts_flag, lora_parts, read_text, table

if TYPE_CHECKING:
    from ..compare.encoders import EncoderReport

DIFFERS = 3  # exit status


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "verify",
        help="compare a model with its source or with another program",
        description="Runs a text through a GGUF model and a reference, and compares token ids and logits; where they "
        "differ, the inputs of every linear, to say where they part. Exit status 3: they differ.",
    )
    p.add_argument("model", metavar="MODEL", help="GGUF file")
    p.add_argument(
        "--against",
        metavar="WHAT",
        required=True,
        help="a Hugging Face folder (transformers runs it, in float32), another GGUF file, or llama.cpp",
    )
    add_lora_parts_flag(p, "adapter beside both; repeatable")
    p.add_argument("--merged", action="store_true", help="the reference has the adapters in its weights, not beside it")
    p.add_argument("--text", metavar="FILE", help="text to run (default: a short one in several languages)")
    p.add_argument("-n", "--tokens", metavar="N", type=int, help="compare this many at most (default 1024)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..compare.encoders import EncoderReport
    from ..compare.verification import DEFAULT_TOKENS, verify

    report = verify(
        args.model,
        args.against,
        adapters=lora_parts(args.lora),
        merged=args.merged,
        text=None if args.text is None else read_text(args.text),
        tokens=DEFAULT_TOKENS if args.tokens is None else args.tokens,
    )
    if args.json:
        print(json.dumps(report.as_dict(), indent=1))
        return 0 if report.ok else DIFFERS
    if isinstance(report, EncoderReport):
        return _print_encoder(report)
    d = report.distance
    ids = {True: "equal", False: f"differ at {report.different_id}", None: "no tokenizer"}[report.ids_equal]
    print(f"{report.model}\nagainst {report.against}")
    head = ["token ids", "positions", "max |Δlogit|", "mean |Δlogit|", "KL mean", "KL max", "top-1"]
    row = [
        ids,
        str(d.positions),
        f"{d.max_abs:.2e}",
        f"{d.mean_abs:.2e}",
        f"{d.kl:.2e}",
        f"{d.kl_max:.2e}",
        f"{d.top1:.2%}",
    ]
    print(table(head, [row]))
    if report.errors:
        print(table(["input of", "error"], [[name, f"{error:.2e}"] for name, error in report.errors.items()]))
    print(report.verdict)
    return 0 if report.ok else DIFFERS


def _print_encoder(report: EncoderReport) -> int:
    ids = {True: "equal", False: f"differ in text {report.different_text}", None: "no tokenizer"}[report.ids_equal]
    print(f"{report.model}\nagainst {report.against}")
    head = ["token ids", "texts", "hidden states", "max |Δ|", "least cosine"]
    row = [ids, str(report.texts), f"{report.error:.2e}", f"{report.max_abs:.2e}", f"{report.cosine:.6f}"]
    if report.logits is not None:
        head += ["labels, max |Δlogit|", "max |Δp|", "top-1"]
        row += [f"{report.logits:.2e}", f"{report.probability:.2e}", f"{report.top1:.2%}"]
    print(table(head, [row]))
    if report.errors:
        print(table(["input of", "error"], [[name, f"{error:.2e}"] for name, error in report.errors.items()]))
    print(report.verdict)
    return 0 if report.ok else DIFFERS
