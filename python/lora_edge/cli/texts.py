"""Texts for an encoder's verbs: arguments, or the lines of a file or of standard input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO

from ..encoder import Text
from ..model import Model
from .common import add_model_flags, load_model

BATCH = 32  # texts per call


def add_text_flags(p: argparse.ArgumentParser) -> None:
    add_model_flags(p)
    g = p.add_argument_group("texts")
    g.add_argument("texts", metavar="TEXT", nargs="*", help="a text each (default: the lines of standard input)")
    g.add_argument("-f", "--file", metavar="FILE", help="a file with a text per line; - is standard input")
    g.add_argument("--pairs", action="store_true", help="each text is two, with a tab between")


def load_encoder(args: argparse.Namespace, labels: bool = False) -> tuple[Model, dict[str, float]]:
    """As `load_model`. labels: or a decoder with an adapter. ValueError: the model is neither."""
    if args.texts and args.file is not None:
        raise ValueError("texts are given twice: as arguments, and with -f")
    adapted = labels and bool(args.lora or args.lora_scaled)
    if args.model is None and args.hf_repo is None and not adapted:
        raise ValueError("the built-in model is no encoder: give one with -m, such as a BERT that `convert` has made")
    model, weights = load_model(args)
    if not adapted:
        model.need_encoder()
    return model, weights


def batches(args: argparse.Namespace) -> Iterator[list[Text]]:
    """The texts, some at a time, so that a long input needs no memory and a pipe is answered as it goes. ValueError: a
    line is not UTF-8, or is no pair where pairs are wanted."""
    batch: list[Text] = []
    for number, text in enumerate(args.texts or _lines(args.file), 1):
        batch.append(_pair(text, number) if args.pairs else text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _lines(path: str | None) -> Iterator[str]:
    with ExitStack() as stack:
        standard = path in (None, "-")
        file: BinaryIO = sys.stdin.buffer if standard else stack.enter_context(open(str(path), "rb"))
        source = "standard input" if standard else f"'{path}'"
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise ValueError(f"{source} is not UTF-8 text: line {number}") from None


def _pair(text: str, number: int) -> tuple[str, str]:
    first, tab, second = text.partition("\t")
    if not tab:
        raise ValueError(f"text {number} is no pair: there is no tab in it")
    return first, second
