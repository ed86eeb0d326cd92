"""lora-edge export: GGUF models to Hugging Face folders."""

from __future__ import annotations

import argparse
from typing import Any

from .common import add_type_flag, progress_bar


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "export",
        help="export a GGUF model to a Hugging Face folder",
        description="Exports a GGUF model to a folder that transformers loads: config.json, safetensors, tokenizer. "
        "Quantised weights are dequantised. What the folder can't say exactly is refused before anything is written.",
    )
    p.add_argument("model", metavar="FILE", help="the GGUF model")
    p.add_argument(
        "-o", "--outdir", metavar="FOLDER", required=True, help="the folder to write; it must be new or empty"
    )
    add_type_flag(p, "of the weights (default: the embedding's; f16 where it is quantised)")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..convert import export_model

    with progress_bar("exporting") as show:
        out = export_model(args.model, args.outdir, type=args.type, progress=show)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"wrote {out} ({size:,} bytes)")
    if not (out / "tokenizer.json").exists():
        print("it has no tokenizer, since the file has none")
