"""lora-edge chat: a conversation in the terminal, through the model's chat template."""

from __future__ import annotations

import argparse
import sys
from typing import Any

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
    options = sampling_options(args)
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
        if not line:
            continue
        if line == "/quit":
            return
        if line == "/reset":
            messages = list(opening)
        elif line == "/help":
            print(_HELP)
        elif line.split()[0] == "/adapter":
            chosen = {name: float(w or 1) for name, _, w in (part.partition("=") for part in line.split()[1:])}
            unknown = [name for name in chosen if name not in model.adapters]
            if unknown:
                print(f"no adapter '{unknown[0]}' is loaded; loaded: {', '.join(model.adapters) or 'none'}")
            else:
                weights = chosen
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
            print()
            messages.append({"role": "assistant", "content": answer.strip()})
