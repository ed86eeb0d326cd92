"""lora-edge convert: Hugging Face folders to GGUF."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "convert",
        help="convert a model or adapter folder to GGUF",
        description="Converts a Hugging Face model folder (llama, mistral, qwen2, qwen3) to a GGUF model, or a PEFT "
        "folder to a GGUF adapter. What a GGUF can't say exactly is refused before anything is written.",
    )
    p.add_argument("folder", metavar="FOLDER", help="with config.json (a model) or adapter_config.json (an adapter)")
    p.add_argument("-o", "--outfile", metavar="FILE", required=True, help="the GGUF file to write")
    p.add_argument(
        "--type",
        "--outtype",
        choices=("f32", "f16", "bf16", "q8_0"),
        help="of the weights (default: q8_0 for a model, f16 for an adapter)",
    )
    p.add_argument("--base", metavar="PATH", help="an adapter's base: its GGUF file or Hugging Face folder")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ..convert import convert_adapter, convert_model

    folder = Path(args.folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"'{folder}' is not a folder: convert takes a Hugging Face model or PEFT adapter folder"
        )
    adapter = (folder / "adapter_config.json").exists()
    with tqdm(desc="converting", unit="B", unit_scale=True, disable=None) as bar:

        def show(done: int, total: int, _: str) -> None:
            bar.total = total
            bar.update(done - bar.n)

        if adapter:
            if args.base is None:
                raise ValueError("an adapter is converted for its base: give its GGUF file or folder with --base")
            out = convert_adapter(folder, args.base, args.outfile, type=args.type or "f16", progress=show)
        else:
            if args.base is not None:
                raise ValueError(f"'{folder}' is a model, not an adapter: --base has no meaning for it")
            out = convert_model(folder, args.outfile, type=args.type or "q8_0", progress=show)
    print(f"wrote {out} ({out.stat().st_size:,} bytes)")
    if not adapter and not (folder / "tokenizer.json").exists():
        print("it has no tokenizer, since the folder has no tokenizer.json: it takes token ids, not text")
