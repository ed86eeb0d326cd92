"""lora-edge convert: Hugging Face folders to GGUF, and adapters between formats."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import hub
from ..encoder_names import LEFT_OUT
from .common import add_type_flag, progress_bar


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "convert",
        help="convert a model folder to GGUF, or an adapter between PEFT, MLX and GGUF",
        description="Converts a Hugging Face model folder (llama, mistral, qwen2, qwen3, smollm3, gemma2, gemma3, "
        "phi3, gpt2, olmo2, granite, stablelm, bert, roberta) to a GGUF model, or an adapter (a PEFT folder, an MLX "
        "folder, a GGUF file) to another of these formats. What a format can't say exactly is refused before anything "
        "is written.",
    )
    p.add_argument(
        "folder", metavar="PATH", help="a folder with config.json (a model) or adapter_config.json, or a GGUF adapter"
    )
    p.add_argument("-o", "--outfile", metavar="PATH", required=True, help="the GGUF file, or the new folder, to write")
    p.add_argument(
        "--to",
        choices=("gguf", "peft", "mlx"),
        help="an adapter's new format (default: gguf where PATH ends in .gguf, else peft)",
    )
    add_type_flag(
        p,
        "of the weights (default: q8_0 for a model, f16 for a GGUF adapter; a folder keeps the adapter's)",
        blocks=True,
    )
    p.add_argument("--base", metavar="PATH", help="an adapter's base: its GGUF file or Hugging Face folder")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..convert import convert_adapter, convert_model
    from ..gguf_file import open_gguf

    folder = Path(hub.local(args.folder))
    adapter = _is_adapter(folder)
    if not folder.is_dir() and not adapter:
        raise FileNotFoundError(
            f"'{folder}' is neither a folder nor a GGUF adapter: convert takes a Hugging Face model, or an adapter"
        )
    with progress_bar("converting") as show:
        if adapter:
            if args.base is None:
                raise ValueError("an adapter is converted for its base: give its GGUF file or folder with --base")
            to = args.to or ("gguf" if args.outfile.endswith(".gguf") else "peft")
            kind = args.type or ("f16" if to == "gguf" else None)
            out = convert_adapter(folder, args.base, args.outfile, type=kind, to=to, progress=show)
        else:
            if args.base is not None or args.to is not None:
                flag = "--to" if args.base is None else "--base"
                raise ValueError(f"'{folder}' is a model, not an adapter: {flag} has no meaning for it")
            out = convert_model(
                folder, args.outfile, type=args.type or "q8_0", name=hub.title(args.folder), progress=show
            )
    size = sum(f.stat().st_size for f in out.iterdir()) if out.is_dir() else out.stat().st_size
    print(f"wrote {out} ({size:,} bytes)")
    if not adapter and (names := open_gguf(out).metadata.get(LEFT_OUT)):
        print(f"left out, since embed and classify don't use heads of pretraining: {', '.join(names)}")
    if not adapter and not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        print("it has no tokenizer, since the folder has no tokenizer.json: it takes token ids, not text")


def _is_adapter(path: Path) -> bool:
    """By what is in the folder, or by what the GGUF file says of itself."""
    if path.is_dir():
        return (path / "adapter_config.json").exists()
    if not path.is_file() or path.suffix != ".gguf":
        return False
    from ..gguf_file import open_gguf

    return bool(open_gguf(path).metadata.get("general.type") == "adapter")
