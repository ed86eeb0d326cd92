"""Parses the command line and runs the verb."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence as Seq

from .. import __version__
from . import bench, chat, classify, convert, embed, export, extract, fit, generate, info, merge, plan, train, verify

_EPILOG = """\
examples:
  lora-edge generate -p "turn on the kitchen light" --compare     the built-in model, and its adapters beside it
  lora-edge generate -m base.gguf --lora my-peft-folder -p "Once upon a time"
  lora-edge chat -m base.gguf --lora style.gguf
  lora-edge embed -m bert.gguf -f sentences.txt -o vectors.npy
  lora-edge classify -m bert.gguf --lora intents "turn on the light"
  lora-edge info base.gguf
  lora-edge plan -m base.gguf --method lora --rank 16 --memory-limit 2GB
  lora-edge convert my-model-folder -o base.gguf --type q8_0
  lora-edge export base.gguf -o my-model-folder
  lora-edge merge base.gguf --lora style.gguf:0.8 -o merged.gguf --type q8_0
  lora-edge extract tuned.gguf base.gguf -o style.gguf --tolerance 0.05
  lora-edge fit base-q8_0.gguf --lora style.gguf --against base-f16.gguf --text sample.txt -o refitted.gguf
  lora-edge train -m base-q8_0.gguf --data my-data --method lora --rank 16 --lr 1e-4 --epochs 3 -o my-adapter
  lora-edge verify base.gguf --against my-model-folder --lora my-peft-folder
  lora-edge bench -m base.gguf --lora style.gguf -p 512 -n 128
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="lora-edge",
        description="On-device LoRA inference: one INT8 base model in memory, adapters beside it, never merged.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"lora-edge {__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    models = (info, convert, export, merge, extract, fit, verify)
    for verb in (generate, chat, embed, classify, *models, plan, train, bench):
        verb.add_parser(verbs)
    return top


def main(argv: Seq[str] | None = None) -> int:
    """Runs a command line; the exit status: 0, 1 for an error of the input, 2 for wrong usage, 130 for Ctrl-C, or
    what the verb says (3 of `verify`: different)."""
    try:
        try:
            args = parser().parse_args(argv)
            status = args.run(args)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a reader that has left is no error; --help passes too
        return status or 0
    except BrokenPipeError:  # the reader of our output has left: so do we
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        print(f"lora-edge: error: {name}{error.strerror or error}", file=sys.stderr)
        return 1
    except (ValueError, RuntimeError, MemoryError) as error:
        print(f"lora-edge: error: {error or 'out of memory'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
