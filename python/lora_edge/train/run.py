"""`lora_edge.train.train`: a whole run, from a base and a folder of data to files that are ready to use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from .. import builtin, hub
from ..adapter_file import BaseInfo, read_adapter
from ..api import load
from ..convert import cached_conversion
from ..gguf_file import open_gguf
from ..model import Model
from ..planning.training_check import check_memory
from .card import write_card
from .data import Data, load_data
from .eight_bits import need_bitsandbytes
from .guard import graceful
from .head import add_head
from .methods import METHODS, check_options, method_class
from .methods.lora import add_frozen
from .metrics import Scores
from .network import Network
from .output import ADAPTER, CARD, CURVE, MODEL, draw_curve, read_metrics, write_result
from .presets import advice
from .scores import score_labels
from .settings import DATA_OPTIONS, EIGHT_BITS, Settings
from .trainer import CHECKPOINTS, METRICS, Plan, Result, Trainer

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Trained:
    """out: the folder. files: what was written at the end; none where the run was stopped before. scores: of labelled
    data, by split. chat: whether the chat template wrote the data."""

    out: Path
    result: Result
    files: list[Path]
    scores: dict[str, Scores] = field(default_factory=dict)
    chat: bool = False


def train(
    model: str | os.PathLike[str] | Model,
    data: str | os.PathLike[str] | Data,
    out: str | os.PathLike[str],
    *,
    settings: Settings | None = None,
    plan: Plan | None = None,
    under: Mapping[str, float] | None = None,
    begin_with: str | os.PathLike[str] | None = None,
    resume: bool = False,
    type: str = "f16",
    threads: int | None = None,
    memory_limit: str | int | None = None,
    force: bool = False,
    say: Callable[[str], None] = print,
    show: Callable[[dict[str, Any]], None] | None = None,
    **words: Any,
) -> Trained:
    """Trains on `data`, a folder with train.jsonl and valid.jsonl or what was read from one, and writes the result to
    the folder `out`.

    words: fields of Settings, such as method="lora", rank=16. under: adapters (paths with weights) that lie frozen
    under what trains. begin_with: an adapter to go on from. resume: go on from out's last checkpoint. type: of the
    matrices of model.gguf and of adapter.gguf. ValueError: a setting, a line of data or a file is wrong; it is named.
    FileExistsError: `out` holds a run, and resume isn't asked for. RuntimeError: the loss became no number.
    MemoryError: the run can't fit into what there is, or into memory_limit (bytes, or "2GB"); cheaper settings are
    named. force: it begins all the same.
    """
    settings = Settings.from_dict({**(settings or Settings()).as_dict(), **_checked(words)})
    settings.check()
    check_options(settings)
    if settings.optimizer == EIGHT_BITS:
        need_bitsandbytes()
    out, kind = Path(out), method_class(settings.method).trained(settings)
    _check_free(out, resume)
    base = model if isinstance(model, Model) else _open(model, kind, threads)
    torch.set_num_threads(base.core.threads)
    settings = _fit_context(settings, base, say)
    for line in advice(settings, adapter=kind == "adapter"):
        say(f"warning: {line}")
    found = data if isinstance(data, Data) else _data(data, base, settings)
    for line in found.lines():
        say(line)
    if not force:
        check_memory(base, settings, found.train, memory_limit)
    network = Network(base, checkpointing=settings.checkpointing)
    if found.labels is not None and found.labels.head:
        add_head(network, found.labels.names, settings.seed)
    if under:
        add_frozen(network, under)
    method = method_class(settings.method)(network, settings)
    if begin_with is not None:
        info = BaseInfo.from_gguf(open_gguf(base.path))
        method.begin_with(read_adapter(hub.local(begin_with), info.arch, info))
    trainer = Trainer(method, settings, found, out, plan, say, show)
    resumed = resume and trainer.resume()
    if resumed and trainer.complete:
        say(f"{out} was finished: its files are written again")
    elif resume:
        say(
            f"resumed after step {trainer.step} of {trainer.total}" if resumed else f"{out} has no checkpoint to resume"
        )
    if trainer.group.first:
        out.mkdir(parents=True, exist_ok=True)
        if not resumed:
            (out / METRICS).unlink(missing_ok=True)
        _write_settings(out, settings)
    result = trainer.run()
    done = Trained(out, result, [])
    if result.finished and trainer.group.first:
        with graceful():  # what was trained is written, whatever comes
            done = _finish(trainer, base, _name(model), under or {}, type, result)
    trainer.group.wait()
    return done


def _finish(trainer: Trainer, base: Model, name: str, under: Mapping[str, float], type: str, result: Result) -> Trained:
    """Writes what a finished run leaves."""
    method, settings, out, data = trainer.method, trainer.settings, trainer.out, trainer.data
    unit = "label" if trainer.head else "token"
    files = write_result(method, out, name, type)
    scores = score_labels(base, out / (MODEL if method.kind == "model" else ADAPTER), under, data)
    for split, values in scores.items():
        trainer.write({"step": result.steps, "split": split, **values.as_dict()})
    if find_spec("matplotlib") is None:
        trainer.say("no loss.png: matplotlib is missing (pip install 'lora_edge[train]')")
    else:
        draw_curve(read_metrics(out / METRICS), out / CURVE, f"{settings.method} on {Path(name).name}", unit)
        files.append(out / CURVE)
    files.append(write_card(out, method.kind, name, settings, data, result, scores))
    return Trained(out, result, files, scores, data.chat)


def _check_free(out: Path, resume: bool) -> None:
    """FileExistsError: `out` holds what the run would write over."""
    if resume:
        return
    if (out / CHECKPOINTS).is_dir() and any((out / CHECKPOINTS).iterdir()):
        raise FileExistsError(f"[train] '{out}' holds a run already: --resume it, or give another folder")
    for name in (ADAPTER, MODEL, "adapter_config.json", CARD):
        if (out / name).exists():
            raise FileExistsError(f"[train] '{out}' has a {name} already: give another folder")


def _open(model: str | os.PathLike[str], kind: str, threads: int | None) -> Model:
    """As `load`; a folder whose weights themselves are trained is converted as F32, which loses none of its bits."""
    if model == builtin.NAME:
        return load(model, threads=threads, device="cpu")
    path = Path(hub.local(model))
    if kind == "model" and (path / "config.json").exists() and not any(path.glob("*.gguf")):
        path = cached_conversion(path, type="f32", name=hub.title(model))
    return load(path, threads=threads, device="cpu")


def _name(model: str | os.PathLike[str] | Model) -> str:
    """What files say of their base: a name of the hub, a folder as given, or a file's name."""
    if hub.is_name(model):
        return hub.parse(str(model)).repo
    path = Path(model.path if isinstance(model, Model) else model)
    return str(model) if path.is_dir() else path.name


def _fit_context(settings: Settings, base: Model, say: Callable[[str], None]) -> Settings:
    if settings.max_length <= base.n_ctx:
        return settings
    say(f"max_length {settings.max_length} is more than the model's context of {base.n_ctx} tokens: {base.n_ctx} it is")
    return replace(settings, max_length=base.n_ctx)


def _data(folder: str | os.PathLike[str], base: Model, settings: Settings) -> Data:
    """ValueError: a line is wrong, or the data is not for this method."""
    options: dict[str, Any] = {k: v for k, v in settings.options if k in DATA_OPTIONS}
    tokenizer = base.need_tokenizer() if base.config.causal else base.need_encoder().need_tokenizer()
    data = load_data(folder, tokenizer, n_ctx=settings.max_length, mask_prompt=settings.mask_prompt, **options)
    if data.labels is not None and data.labels.head:
        able = [word for word in METHODS if method_class(word).heads]
        if base.config.causal:  # whose file has no place for one
            able = [word for word in able if method_class(word).kind == "adapter"]
        if settings.method not in able:
            raise ValueError(f"[train] {settings.method} trains no head for labels here; {', '.join(able)} do")
        data = data if base.config.causal else data.in_order(base.need_encoder().own_labels)
    if data.labels is not None and find_spec("sklearn") is None:
        raise RuntimeError("[train] labels are scored with scikit-learn: pip install 'lora_edge[train]'")
    return data


def _write_settings(out: Path, settings: Settings) -> None:
    temporary = out / (SETTINGS + ".tmp")
    temporary.write_text(json.dumps(settings.as_dict(), indent=1) + "\n", "utf-8")
    temporary.replace(out / SETTINGS)


def _checked(words: Mapping[str, Any]) -> dict[str, Any]:
    known = set(Settings().as_dict())
    for word in words:
        if word not in known:
            raise ValueError(f"[train] setting {word!r} is not one of {', '.join(sorted(known))}")
    return {k: v for k, v in words.items() if v is not None}
