"""lora-edge train: an adapter trained on the base that serves it, or a small model as a whole."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import builtin
from ..encoder_names import LABELS_KEY
from ..gguf_file import open_gguf
from ..train.presets import preset
from .common import add_lora_parts_flag, add_memory_limit_flag, add_type_flag, lora_parts, table
from .train_flags import add_data_flags, add_settings_flags, settings_of

if TYPE_CHECKING:
    from ..train.run import Trained

_ABOUT = """\
Trains on DIR's train.jsonl and measures on its valid.jsonl. OUT gets the adapter (a PEFT folder, and adapter.gguf) or
model.gguf, metrics.jsonl, loss.png, README.md (a model card), settings.json and checkpoints. With torchrun several
processes share each batch: torchrun --nproc-per-node 2 -m lora_edge train ...
"""


def add_parser(verbs: Any) -> None:
    p = verbs.add_parser(
        "train",
        help="train an adapter on the quantised base, or a small model",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    g = p.add_argument_group("model")
    g.add_argument(
        "-m", "--model", metavar="FILE", default=builtin.NAME,
        help="the base: GGUF file, Hugging Face folder or hf:// name (default: the built-in model)",
    )  # fmt: skip
    add_lora_parts_flag(g, "an adapter that lies frozen under what is trained; repeatable")
    g.add_argument("--begin-with", metavar="FILE", help="an adapter to train further")
    g.add_argument("-t", "--threads", metavar="N", type=int, help="threads (default: one per physical core)")
    add_data_flags(p)
    add_settings_flags(p)
    g = p.add_argument_group("output")
    g.add_argument("-o", "--out", metavar="OUT", required=True, help="the folder to write")
    g.add_argument("--resume", action="store_true", help="go on from OUT's last checkpoint, if it has one")
    add_type_flag(g, "of adapter.gguf or of model.gguf's matrices (default f16)", blocks=True, default="f16")
    g.add_argument("--log-every", metavar="N", type=int, default=10, help="steps between lines of metrics (default 10)")
    g.add_argument(
        "--eval-every", metavar="N", type=int, default=200, help="steps between held-out losses; 0: at the end only"
    )
    g.add_argument(
        "--save-every", metavar="N", type=int, default=100, help="steps between checkpoints; 0: at the end only"
    )
    add_memory_limit_flag(g)
    g.add_argument("--force", action="store_true", help="begin, even if the memory won't suffice")
    g.add_argument("--max-temp", metavar="CELSIUS", type=float, help="wait while the machine is hotter")
    g.add_argument(
        "--search",
        metavar="N",
        type=int,
        help="make N runs with other learning rates and ranks (Optuna), each in OUT/trials, and name the best",
    )
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from . import train_process as process
    from .train_bar import TrainBar

    process.prepare()
    settings = settings_of(args)
    try:
        from ..train import Plan, train
    except ModuleNotFoundError as error:
        raise RuntimeError(str(error)) from None
    bar = TrainBar(process.rank() > 0, args.log_every)
    if args.preset:
        chosen = preset(args.preset)
        bar.say(f"preset {args.preset}: {chosen.about} ({chosen.source})")
    words: dict[str, Any] = {
        "settings": settings, "resume": args.resume, "type": args.type,
        "plan": Plan(args.log_every, args.eval_every, args.save_every, args.max_temp),
        "under": dict(lora_parts(args.lora)), "begin_with": args.begin_with,
        "threads": process.threads(args.threads), "say": bar.say, "show": bar.show,
        "memory_limit": args.memory_limit, "force": args.force,
    }  # fmt: skip
    try:
        if args.search is not None:
            return _search(args, words)
        done = train(args.model, args.data, args.out, **words)
    finally:
        bar.close()
    if process.rank() > 0:
        return 0
    if done.files:
        print(_summary(done))
        print(_how_to_use(args, done.files, done.out, done.chat))
    return _status(done.result.signal)


def _search(args: argparse.Namespace, words: dict[str, Any]) -> int:
    from ..train.search import search

    found = search(args.search, args.model, args.data, args.out, **words)
    if found.trials:
        rows = [[str(t.number), f"{t.lr:.3g}", str(t.rank), f"{t.loss:.4f}", str(t.out)] for t in found.trials]
        print(table(["trial", "lr", "rank", "held-out loss", "folder"], rows))
    if not found.signal:
        best = found.trials[0]
        print(f"best: trial {best.number} with lr {best.lr:.3g}, rank {best.rank}")
        print(f"use it: see {best.out / 'README.md'}")
    return _status(found.signal)


def _status(signal: int) -> int:
    """As a shell says it of a process that a signal ended."""
    return 128 + signal if signal else 0


def _summary(done: Trained) -> str:
    r = done.result
    parts = [f"{r.steps} steps", f"{r.tokens:,} tokens in {r.seconds:.0f} s", f"loss {r.loss:.4f}"]
    if r.valid_loss is not None:
        parts.append(f"held out {r.valid_loss:.4f}")
    for split, s in done.scores.items():
        parts.append(f"{split} accuracy {s.accuracy:.3f}, F1 {s.f1_macro:.3f}, MCC {s.mcc:.3f}")
    return f"wrote {done.out}: {', '.join(parts)}"


def _how_to_use(args: argparse.Namespace, files: list[Path], out: Path, chat: bool) -> str:
    model = next((f for f in files if f.name == "model.gguf"), None)
    base = str(model or args.model)
    written = next(f for f in files if f.suffix == ".gguf")
    labels = any(key.endswith(LABELS_KEY) for key in open_gguf(written).metadata)
    verb, what = ("classify", " ...") if labels else ("chat", "") if chat else ("generate", " -p ...")
    words = ["lora-edge", verb, *(["-m", base] if base != builtin.NAME else [])]
    if model is None:
        for path, weight in lora_parts(args.lora):
            words += ["--lora", path] if weight == 1.0 else ["--lora-scaled", f"{path}:{weight:g}"]
        words += ["--lora", str(out)]
    return f"use it: {shlex.join(words)}{what}"
