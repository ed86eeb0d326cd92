"""lora-edge classify: texts to labels."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..encoder import Classification
from .common import adapter_spec, plain
from .texts import add_text_flags, batches, load_encoder


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "classify",
        help="label texts (BERT, RoBERTa, or an adapter with labels)",
        description="Prints the likeliest label of each text and its probability, a line per text, with a tab between. "
        "The model is a classifier, or an adapter brings the labels.",
    )
    add_text_flags(p)
    out = p.add_argument_group("output")
    out.add_argument("--top-k", metavar="K", type=int, default=1, help="the K likeliest labels (default 1; 0: all)")
    out.add_argument("--json", action="store_true", help="print a JSON object per line: label, scores and logits")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.top_k < 0:
        raise ValueError(f"--top-k is {args.top_k}; 0 is all labels")
    model, weights = load_encoder(args, labels=True)
    model.classifier(adapter_spec(weights))
    for texts in batches(args):
        for found in model.classify(texts, adapter=adapter_spec(weights)):
            print(_json(found) if args.json else _line(found, args.top_k), flush=True)


def _line(found: Classification, top_k: int) -> str:
    ranked = sorted(found.scores.items(), key=lambda item: -item[1])
    return "\t".join(f"{plain(label)}\t{score:.6f}" for label, score in ranked[: top_k or None])


def _json(found: Classification) -> str:
    logits = [float(str(x)) for x in found.logits]
    return json.dumps({"label": found.label, "scores": found.scores, "logits": logits})
