"""lora-edge chat: a conversation in the terminal, through the model's chat template."""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

from ..model import Model
from ..options import make_options
from .common import adapter_spec, add_model_flags, add_sampling_flags, load_model, sampling_options

_HELP = (
    "/adapter NAME[=WEIGHT] ... switches adapters (none: the base), /reset forgets the conversation, "
    "/quit or Ctrl-D ends"
)


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "chat",
        help="talk to a model",
        description=f"A conversation through the model's chat template. In it: {_HELP}.",
    )
    add_model_flags(p)
    add_sampling_flags(p)
    p.add_argument("--system", metavar="TEXT", help="a system message to begin with")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    model, weights = load_model(args)
    model.need_chat_template()
    options = sampling_options(args)
    make_options(options)
    opening = [{"role": "system", "content": args.system}] if args.system else []
    messages = list(opening)
    on_terminal = sys.stdin.isatty()
    if on_terminal:
        print(f"{model.config.name or model.path}; adapters: {', '.join(model.adapters) or 'none'}\n{_HELP}")
    while True:
        try:
            line = input("> " if on_terminal else "").strip()
        except EOFError:
            return
        except UnicodeDecodeError as error:
            print(f"that line is not UTF-8: {error}", file=sys.stderr)
            continue
        if not line:
            continue
        if line == "/quit":
            return
        if line == "/reset":
            messages = list(opening)
        elif line == "/help":
            print(_HELP)
        elif line.split()[0] == "/adapter":
            try:
                weights = _chosen(model, line.split()[1:])
            except ValueError as error:
                print(error)
        elif line.startswith("/"):
            print(f"unknown command; {_HELP}")
        else:
            messages.append({"role": "user", "content": line})
            answer = ""
            try:
                for token in model.chat(messages, adapter=adapter_spec(weights), stream=True, **options):
                    answer += token.text
                    print(token.text, end="", flush=True)
            except KeyboardInterrupt:  # ends the answer, not the conversation
                pass
            except ValueError as error:
                print(f"{error}; /reset begins again", file=sys.stderr)
                messages.pop()
                continue
            print()
            messages.append({"role": "assistant", "content": answer.strip()})


def _chosen(model: Model, entries: list[str]) -> dict[str, float]:
    """{name: weight} of NAME[=WEIGHT] entries. ValueError: a name is not loaded, or a weight is no number."""
    weights = {}
    for name, _, weight in (entry.partition("=") for entry in entries):
        if name not in model.adapters:
            raise ValueError(f"no adapter '{name}' is loaded; loaded: {', '.join(model.adapters) or 'none'}")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            weights[name] = math.nan
        if not math.isfinite(weights[name]):
            raise ValueError(f"the weight of '{name}' is {weight!r}, not a number")
    return weights
