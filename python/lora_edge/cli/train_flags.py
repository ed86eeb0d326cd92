"""The settings of a run as flags: one for each field of `Settings`, by its own name and those of mlx-lm and PEFT."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from ..train.methods import METHODS
from ..train.presets import PRESETS, preset
from ..train.settings import OPTIMIZERS, SCHEDULES, Settings

DEFAULTS = Settings()


class Flag(NamedTuple):
    """A field's flags, the letters of its value ("": a switch), and what it is."""

    names: tuple[str, ...]
    metavar: str
    help: str
    choices: tuple[str, ...] | None = None


FLAGS: Mapping[str, Flag] = {
    "method": Flag(("--method", "--fine-tune-type"), "WORD", f"{', '.join(METHODS)}", tuple(METHODS)),
    "lr": Flag(("--lr", "--learning-rate"), "RATE", "the peak learning rate"),
    "rank": Flag(("-r", "--rank", "--lora-rank"), "R", "of adapters"),
    "alpha": Flag(("--alpha", "--lora-alpha"), "A", "an adapter acts with alpha / rank (rslora: alpha / √rank)"),
    "dropout": Flag(("--dropout", "--lora-dropout"), "P", "of an adapter's input"),
    "targets": Flag(
        ("--targets", "--target-modules"), "NAME[,NAME...]", "modules by Hugging Face's names, or all-linear"
    ),
    "batch_size": Flag(("--batch-size",), "N", "examples a step, over all processes"),
    "accumulate": Flag(
        ("--accumulate", "--grad-accumulation-steps"), "N", "parts that a batch is made in, one after the other"
    ),
    "epochs": Flag(("--epochs",), "N", "times through the data"),
    "steps": Flag(("--steps", "--iters"), "N", "steps to make; 0: as many as the epochs have"),
    "optimizer": Flag(("--optimizer",), "WORD", ", ".join(OPTIMIZERS), OPTIMIZERS),
    "weight_decay": Flag(("--weight-decay",), "W", "of the optimiser"),
    "schedule": Flag(("--schedule", "--lr-scheduler-type"), "WORD", ", ".join(SCHEDULES), SCHEDULES),
    "warmup": Flag(("--warmup", "--warmup-ratio"), "SHARE", "of the steps in which the rate rises"),
    "grad_clip": Flag(("--grad-clip", "--max-grad-norm"), "NORM", "the largest gradient; 0: any"),
    "max_length": Flag(("--max-length", "--max-seq-length"), "N", "tokens of an example"),
    "pack": Flag(("--pack",), "", "several examples a row"),
    "mask_prompt": Flag(("--mask-prompt",), "", "learn completions alone"),
    "checkpointing": Flag(("--checkpointing", "--grad-checkpoint"), "", "less memory, more time: layers run twice"),
    "seed": Flag(("-s", "--seed"), "N", "of the order, the first weights and dropout"),
    "lr_ratio": Flag(("--lr-ratio", "--loraplus-lr-ratio"), "X", "lora+: the rate of lora_B by that of lora_A"),
}


def add_settings_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("settings")
    g.add_argument(
        "--preset",
        metavar="NAME",
        choices=tuple(PRESETS),
        help=f"published settings to begin with: {', '.join(PRESETS)}",
    )
    for field, flag in FLAGS.items():
        default = getattr(DEFAULTS, field)
        shown = ",".join(default) if isinstance(default, tuple) else f"{default:g}" if _number(default) else default
        if isinstance(default, bool):
            on = "on" if default else "off"
            action: Any = argparse.BooleanOptionalAction
            g.add_argument(*flag.names, dest=field, action=action, default=None, help=f"{flag.help} (default {on})")
        else:
            kind: Any = _targets if isinstance(default, tuple) else type(default)
            g.add_argument(
                *flag.names, dest=field, metavar=flag.metavar, type=kind, choices=flag.choices,
                help=f"{flag.help} (default {shown})",
            )  # fmt: skip
    g.add_argument(
        "--option", metavar="NAME=VALUE", action="append", default=[], help="what one method knows alone; repeatable"
    )


def add_data_flags(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("data")
    g.add_argument("--data", metavar="DIR", required=True, help="folder with train.jsonl, valid.jsonl, test.jsonl")
    g.add_argument(
        "--too-long",
        choices=("truncate", "split", "drop"),
        help="what happens to examples longer than the maximum (default truncate)",
    )
    g.add_argument("--classify", choices=("labels", "head"), help="labels as text that is scored, or by a head")
    g.add_argument(
        "--label-prompt", metavar="TEXT", help=r'what stands around a labelled text (default "{text}\nlabel:")'
    )
    g.add_argument(
        "--chat-template",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="write prompts and completions as turns (default: where the model has a template)",
    )


def data_options(args: argparse.Namespace) -> dict[str, Any]:
    """The data flags that were given; "\\n" and "\\t" in a prompt are a line break and a tab."""
    given = {n: getattr(args, n, None) for n in ("too_long", "classify", "label_prompt", "chat_template")}
    if given["label_prompt"] is not None:
        given["label_prompt"] = given["label_prompt"].replace("\\n", "\n").replace("\\t", "\t")
    return {name: value for name, value in given.items() if value is not None}


def settings_of(args: argparse.Namespace) -> Settings:
    """The defaults, over them the preset's values, over these what was given. ValueError: a value can't be.

    Given steps or epochs take the place of a preset's of either kind.
    """
    given = {f.name: getattr(args, f.name) for f in fields(Settings) if getattr(args, f.name, None) is not None}
    values: dict[str, Any] = dict(preset(args.preset).values) if args.preset else {}
    if "epochs" in given and "steps" not in given:
        values.pop("steps", None)
    options = {**dict(values.pop("options", ())), **dict(map(_option, args.option)), **data_options(args)}
    settings = Settings.from_dict({**DEFAULTS.as_dict(), **values, **given, "options": options})
    settings.check()
    return settings


def _option(entry: str) -> tuple[str, Any]:
    """NAME=VALUE, the value a number, true, false, null or a list as JSON writes them, else text."""
    name, equals, value = entry.partition("=")
    if not name or not equals:
        raise ValueError(f"--option {entry!r} is not NAME=VALUE, such as init_r=24")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _targets(text: str) -> tuple[str, ...]:
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError("no module is named")
    return found


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
