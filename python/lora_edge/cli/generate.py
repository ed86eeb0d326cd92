"""lora-edge generate: continues a prompt, with adapters or without, or both side by side."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..generation import Completion
from .common import adapter_spec, add_model_flags, add_sampling_flags, load_model, read_text, sampling_options


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "generate",
        help="continue a prompt",
        description="Continues a prompt as it is; no chat template is applied (chat does that).",
    )
    add_model_flags(p)
    source = p.add_argument_group("prompt").add_mutually_exclusive_group(required=True)
    source.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt; - reads standard input")
    source.add_argument("-f", "--file", metavar="FILE", help="a file with the prompt")
    add_sampling_flags(p)
    out = p.add_argument_group("output")
    out.add_argument(
        "--compare",
        action="store_true",
        help="answer as the base and with each adapter (--lora; else the built-in ones), side by side",
    )
    out.add_argument("--ids", action="store_true", help="print token ids instead of text")
    out.add_argument("--timings", action="store_true", help="print tokens per second on standard error")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    prompt = _prompt(args)
    model, weights = load_model(args)
    options = sampling_options(args)
    if args.compare:
        names = list(weights) or list(model.adapters)
        if not names:
            raise ValueError("--compare needs an adapter: give one with --lora")
        ways: list[dict[str, float] | None] = [None, *({name: weights.get(name, 1.0)} for name in names)]
        completions = [model.complete(prompt, adapter=way, **options) for way in ways]
        _print_compared(prompt, ["base", *names], completions, args.ids)
        for label, completion in zip(["base", *names], completions):
            _print_timings(args, completion, label)
    elif args.ids or args.timings:
        completion = model.complete(prompt, adapter=adapter_spec(weights), **options)
        print(*completion.ids) if args.ids else print(completion.text)
        _print_timings(args, completion, "")
    else:
        for token in model.generate(prompt, adapter=adapter_spec(weights), stream=True, **options):
            print(token.text, end="", flush=True)
        print()


def _prompt(args: argparse.Namespace) -> str:
    if args.file is not None:
        return read_text(args.file)
    return read_text("-") if args.prompt == "-" else str(args.prompt)


def _print_compared(prompt: str, labels: list[str], completions: list[Completion], ids: bool) -> None:
    width = max(map(len, [*labels, "prompt"]))
    print(f"{'prompt':>{width}} | {_indented(prompt, width)}")
    for label, completion in zip(labels, completions):
        text = " ".join(map(str, completion.ids)) if ids else completion.text.strip("\n")
        print(f"{label:>{width}} | {_indented(text, width)}")


def _indented(text: str, width: int) -> str:
    return text.replace("\n", f"\n{'':>{width}} | ")


def _print_timings(args: argparse.Namespace, completion: Completion, label: str) -> None:
    if not args.timings:
        return
    t = completion.timings
    speed = t.prompt_tokens / t.prompt_seconds if t.prompt_seconds > 0 else 0.0
    drafts = f"; {t.accepted} of {t.drafted} drafted tokens accepted" if args.speculative else ""
    print(
        f"{label + ': ' if label else ''}prompt {t.prompt_tokens} tokens, {speed:.1f} tokens/s; "
        f"generated {t.generated_tokens} tokens, {t.tokens_per_second:.1f} tokens/s{drafts}",
        file=sys.stderr,
    )
