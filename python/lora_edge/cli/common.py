"""Flags and steps that several verbs share."""

from __future__ import annotations

import argparse
import math
import os

from ..adapter import AdapterSpec
from ..model import Model
from ..options import DEFAULT_MAX_TOKENS, SPECULATIVE, OptionArgs

MAX_TEXT = 1000  # characters of one value


def add_model_flags(p: argparse.ArgumentParser, *, several_threads: bool = False) -> None:
    g = p.add_argument_group("model")
    g.add_argument(
        "-m", "--model", metavar="FILE", help="GGUF file or Hugging Face folder (default: the built-in model)"
    )
    g.add_argument(
        "--lora",
        metavar="FILE",
        action="append",
        default=[],
        help="adapter: a GGUF adapter, a PEFT folder, or a built-in adapter's name; repeatable",
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

    model = load(args.model, n_ctx=args.ctx_size, threads=args.threads, kv_type=args.kv_type, pin=args.pin)
    wanted = [(path, 1.0) for path in args.lora] + [_scaled(entry) for entry in args.lora_scaled]
    builtin = set(model.adapters)
    given: set[str] = set()
    weights: dict[str, float] = {}
    for path, weight in wanted:
        key = path if path in builtin else os.path.realpath(path)
        if key in given:
            raise ValueError(f"adapter '{path}' is given twice: give it once, with --lora-scaled FILE:SCALE")
        given.add(key)
        name = path
        if path not in builtin:
            if not os.path.exists(path):
                known = f" (built-in adapters: {', '.join(sorted(builtin))})" if builtin else ""
                raise FileNotFoundError(f"adapter '{path}': no such file or folder{known}")
            name = os.path.basename(os.path.abspath(path))
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


def _scaled(entry: str) -> tuple[str, float]:
    path, _, scale = entry.rpartition(":")
    try:
        weight = float(scale)
        if path and math.isfinite(weight):
            return path, weight
    except ValueError:
        pass
    raise ValueError(f"--lora-scaled {entry!r} is not FILE:SCALE, such as style.gguf:0.5")
