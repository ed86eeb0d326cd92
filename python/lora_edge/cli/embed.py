"""lora-edge embed: texts to vectors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter import head_parts
from ..convert.outputs import check_out, write_file
from ..encoder import POOLINGS
from .common import adapter_spec
from .texts import add_text_flags, batches, load_encoder


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "embed",
        help="turn texts into vectors (BERT, RoBERTa)",
        description="Prints the embedding of each text by an encoder, a JSON array per line; or writes all of them as "
        "an .npy file, float32 [texts, width].",
    )
    add_text_flags(p)
    out = p.add_argument_group("output")
    out.add_argument("--pooling", choices=POOLINGS, help="how a text's vectors become one (default: as the file says)")
    out.add_argument("--no-normalize", action="store_true", help="leave the vectors' lengths (default: all 1)")
    out.add_argument("-o", "--outfile", metavar="FILE", help="an .npy file to write (default: print)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.outfile is not None and Path(args.outfile).suffix != ".npy":
        raise ValueError(f"'{args.outfile}' is no name of an .npy file")
    if args.outfile is not None:
        check_out(Path(args.outfile))
    model, weights = load_encoder(args)
    model.need_encoder().head(head_parts(adapter_spec(weights), model.adapters)).check_pooling(args.pooling)
    rows = [np.empty((0, model.config.n_embd), np.float32)]
    for texts in batches(args):
        found = model.embed(texts, adapter=adapter_spec(weights), pooling=args.pooling, normalize=not args.no_normalize)
        if args.outfile is not None:
            rows.append(found)
            continue
        for row in found:
            print(json.dumps([float(str(x)) for x in row]))
    if args.outfile is not None:
        vectors = np.concatenate(rows)
        with write_file(Path(args.outfile)) as path, open(path, "wb") as file:
            np.save(file, vectors)
        print(f"wrote {args.outfile} ({vectors.shape[0]} × {vectors.shape[1]})")
