"""Flags and steps that several verbs share."""

from __future__ import annotations

import argparse
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import hub
from ..adapter import AdapterSpec
from ..model import Model
from ..options import DEFAULT_MAX_TOKENS, SPECULATIVE, OptionArgs
from ..planning.inference import check_context

MAX_TEXT = 1000  # characters of one value
_NUMBER = re.compile(r":[-+.0-9eE]+$")


def add_model_flags(p: argparse.ArgumentParser, *, several_threads: bool = False) -> None:
    g = p.add_argument_group("model")
    g.add_argument(
        "-m", "--model", metavar="FILE", help="GGUF file or Hugging Face folder (default: the built-in model)"
    )
    g.add_argument(
        "-hf",
        "--hf-repo",
        metavar="OWNER/NAME[:QUANT]",
        help="a model of the Hugging Face hub, the same as -m hf://OWNER/NAME; QUANT or a file's name chooses a GGUF",
    )
    g.add_argument(
        "--lora",
        metavar="FILE",
        action="append",
        default=[],
        help="adapter: a GGUF adapter, a PEFT or MLX folder, or a built-in adapter's name; repeatable",
    )
    g.add_argument(
        "--lora-scaled",
        metavar="FILE:SCALE",
        action="append",
        default=[],
        help="the same, with its weight after a colon; repeatable",
    )
    g.add_argument("-c", "--ctx-size", metavar="N", type=int, help="context in tokens (default: as trained)")
    if several_threads:
        g.add_argument(
            "-t", "--threads", metavar="N[,N...]", help="numbers of threads (default: one per physical core)"
        )
    else:
        g.add_argument("-t", "--threads", metavar="N", type=int, help="threads (default: one per physical core)")
    g.add_argument(
        "--kv-type",
        choices=("auto", "f32", "f16", "q8_0"),
        default="auto",
        help="type of cached keys and values (auto: f32 for F32 files, else f16)",
    )
    g.add_argument(
        "--device",
        metavar="DEVICE",
        default="auto",
        help="cpu, cuda, cuda:N, or auto: a GPU that works, else the CPU (default: auto; see lora-edge info --devices)",
    )
    g.add_argument(
        "--pin", action="store_true", help="keep each thread on a core of its own (default: as the system likes)"
    )


def add_sampling_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("generation")
    g.add_argument(
        "-n",
        "--predict",
        metavar="N",
        type=int,
        default=DEFAULT_MAX_TOKENS,
        help="tokens to generate at most; -1: to the end of the context (default: 128)",
    )
    g.add_argument(
        "--temp", metavar="T", type=float, default=0.0, help="temperature; 0 takes the likeliest token (default)"
    )
    g.add_argument("--top-k", metavar="K", type=int, default=0, help="sample among the K likeliest (default 0: all)")
    g.add_argument(
        "--top-p", metavar="P", type=float, default=1.0, help="sample among the likeliest that sum to P (default 1)"
    )
    g.add_argument(
        "--min-p",
        metavar="P",
        type=float,
        default=0.0,
        help="sample among those at least P times as likely as the likeliest (default 0)",
    )
    g.add_argument(
        "--repeat-penalty", metavar="R", type=float, default=1.0, help="penalty on the last 64 tokens (default 1: none)"
    )
    g.add_argument(
        "-s", "--seed", metavar="N", type=int, help="the same seed gives the same text (default: a fresh one)"
    )
    g.add_argument("--stop", metavar="TEXT", action="append", help="end before this text; repeatable")
    g.add_argument("--ignore-eos", action="store_true", help="go on after an end token")
    g.add_argument(
        "--speculative",
        choices=SPECULATIVE,
        help="check several guessed tokens per pass: the same text, sooner where it repeats the prompt or itself",
    )


def add_memory_limit_flag(g: Any) -> None:
    g.add_argument("--memory-limit", metavar="SIZE", help="the most memory that a run may take, such as 900M or 2GB")


def add_type_flag(
    p: argparse._ActionsContainer, help: str, *, blocks: bool = False, default: str | None = None
) -> None:
    """The number format of what is written; llama.cpp's converter calls it --outtype."""
    choices = ("f32", "f16", "bf16", "q8_0", "q4_0") if blocks else ("f32", "f16", "bf16")
    p.add_argument("--type", "--outtype", choices=choices, default=default, help=help)


def add_lora_parts_flag(p: argparse._ActionsContainer, help: str, *, required: bool = False) -> None:
    """`--lora FILE[:SCALE]`, which `lora_parts` reads."""
    p.add_argument("--lora", metavar="FILE[:SCALE]", action="append", default=[], required=required, help=help)


def sampling_options(args: argparse.Namespace) -> OptionArgs:
    return OptionArgs(
        max_tokens=args.predict,
        temperature=args.temp,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repeat_penalty=args.repeat_penalty,
        seed=args.seed,
        stop=args.stop,
        ignore_eos=args.ignore_eos,
        speculative=args.speculative,
    )


def load_model(args: argparse.Namespace) -> tuple[Model, dict[str, float]]:
    """The model with the adapters of --lora and --lora-scaled, and these with their weights, in order."""
    from ..api import load

    if args.hf_repo is not None:
        if args.model is not None:
            raise ValueError("-m and -hf name two models: give one")
        args.model = hub.SCHEME + args.hf_repo.removeprefix(hub.SCHEME)
    model = load(
        args.model,
        n_ctx=args.ctx_size,
        threads=args.threads,
        device=args.device,
        kv_type=args.kv_type,
        pin=args.pin,
    )
    if args.ctx_size is not None and model.config.causal:
        check_context(model)
    wanted = [(path, 1.0) for path in args.lora] + [_scaled(entry) for entry in args.lora_scaled]
    builtin = set(model.adapters)
    given: set[str] = set()
    weights: dict[str, float] = {}
    for path, weight in wanted:
        called = hub.title(path)
        path = os.fspath(hub.local(path))
        key = path if path in builtin else os.path.realpath(path)
        if key in given:
            raise ValueError(f"adapter '{path}' is given twice: give it once, with --lora-scaled FILE:SCALE")
        given.add(key)
        name = path
        if path not in builtin:
            if not os.path.exists(path):
                known = f" (built-in adapters: {', '.join(sorted(builtin))})" if builtin else ""
                raise FileNotFoundError(f"adapter '{path}': no such file or folder{known}")
            name = called or os.path.basename(os.path.abspath(path))
            while name in model.adapters:
                name += "'"
            model.load_adapter(path, name=name)
        weights[name] = weight
    return model, weights


def plain(text: str) -> str:
    """Text of a file as a terminal may have it: control characters and broken UTF-8 escaped, not too long."""
    text = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def adapter_spec(weights: dict[str, float]) -> AdapterSpec:
    return weights or None


def lora_parts(entries: list[str]) -> list[tuple[str, float]]:
    """Adapters with their weights of `--lora FILE[:SCALE]`, where the flag has no second form."""
    parts = []
    for entry in entries:
        whole = os.path.exists(entry) or not _NUMBER.search(entry)
        path, weight = (entry, 1.0) if whole else _scaled(entry, "--lora")
        parts.append((os.fspath(hub.local(path)), weight))
    return parts


@contextmanager
def progress_bar(what: str, unit: str = "B") -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal, for functions that report what is done, in all, and a name.  SIGTERM raises SystemExit
    meanwhile, so that what is half written is taken away."""
    from tqdm import tqdm

    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tqdm(desc=what, unit=unit, unit_scale=unit == "B", disable=None) as bar:

        def show(done: int, total: int, _: str) -> None:
            bar.total = total
            bar.update(done - bar.n)

        try:
            yield show
        finally:
            signal.signal(signal.SIGTERM, before)


def read_text(path: str) -> str:
    """A file's text, or standard input's for "-". ValueError: it is not UTF-8."""
    data, source = (
        (sys.stdin.buffer.read(), "standard input") if path == "-" else (Path(path).read_bytes(), f"'{path}'")
    )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        source = "standard input" if path == "-" else f"'{path}'"
        raise ValueError(f"{source} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}") from None


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as they need to be, the first aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = []
    for row in [header, *rows]:
        cells = [f"{row[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _scaled(entry: str, flag: str = "--lora-scaled") -> tuple[str, float]:
    path, _, scale = entry.rpartition(":")
    try:
        weight = float(scale)
        if path and math.isfinite(weight):
            return path, weight
    except ValueError:
        pass
    raise ValueError(f"{flag} {entry!r} is not FILE:SCALE, such as style.gguf:0.5")
