#!/usr/bin/env python3
"""Writes a task as a folder for `lora-edge train --data`: train.jsonl, valid.jsonl and test.jsonl.

    python tools/tasks/make_task.py paraphrase -o build/paraphrase
    python tools/tasks/make_task.py clinc150 -o build/clinc150 --intents 20
    python tools/tasks/make_task.py tinyshakespeare -o build/shakespeare --size 800

The first is generated, from --seed; the others are made of data beside the project.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import paraphrase
import sources


def write_task(folder: Path, splits: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
    """One .jsonl for each split, each put in place when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        part = folder / f"{split}.jsonl.tmp"
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        os.replace(part, folder / f"{split}.jsonl")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("paraphrase", "clinc150", *sources.TEXTS))
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--seed", type=int, default=7, help="of the generated pairs")
    parser.add_argument("--train", type=int, default=40_000, help="pairs to train on; an eighth more as valid, as test")
    parser.add_argument("--intents", type=int, help="of CLINC150, only so many")
    parser.add_argument("--out-of-scope", action="store_true", help="with CLINC150's texts of no intent")
    parser.add_argument("--size", type=int, default=800, help="characters of a piece of text at most")
    args = parser.parse_args(argv)
    try:
        if args.task == "paraphrase":
            sizes = {"train": args.train, "valid": args.train // 8, "test": args.train // 8}
            splits = paraphrase.pairs(sizes, args.seed)
        elif args.task == "clinc150":
            splits = sources.clinc150(args.intents, args.out_of_scope)
        else:
            splits = sources.text(args.task, args.size)
    except FileNotFoundError as error:
        print(f"make_task: skipped: {error}", file=sys.stderr)
        return 1
    write_task(args.out, splits)
    print(f"{args.out}: " + ", ".join(f"{len(rows):,} {split}" for split, rows in splits.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
