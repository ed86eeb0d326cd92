"""GGUF model -> Hugging Face folder that transformers loads: conversion read backwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..encoder_names import ENCODER
from ..gguf_file import GgufFile, open_gguf
from .changes import hf_rows
from .config import config_of
from .encoder_export import plan_encoder_export
from .export_rows import TORCH_DTYPES, Rows, kind_of
from .hparams import HParams
from .metadata import hparams_of
from .model import Source, sources_of
from .outputs import check_new, write_folder
from .safetensors_writer import MAX_SHARD, write_json, write_shards
from .vocab_export import tokenizer_files
from .weights import Array
from .writer import Planned, Progress


def export_model(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    type: str | None = None,
    max_shard: int = MAX_SHARD,
    progress: Progress | None = None,
) -> Path:
    """Export a GGUF model to a new folder: config.json, safetensors, and what it has of a tokenizer, a chat template
    and defaults of generation.

    type: "f32", "f16" or "bf16" of all tensors; None: the embedding's type, f16 for quantised ones, which are
    dequantised.  max_shard: bytes of a file of weights.  progress: as in `convert_model`.  ValueError names whatever
    the folder could not say: a tensor without a module, a setting that transformers has no word for; FileExistsError:
    there is something at `out` that is not an empty folder.  An interruption leaves nothing under that name.
    """
    out = Path(out)
    check_new(out)
    file = open_gguf(model)
    kind = kind_of(file, type)
    if file.metadata.get("general.architecture") == ENCODER:
        config, tensors, files = plan_encoder_export(file, kind)
    else:
        hparams = hparams_of(file)
        tensors = _plan(file, Rows(file), hparams, kind)
        files, ids = tokenizer_files(file.metadata, hparams.n_vocab)
        none = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        config = {**config_of(hparams, TORCH_DTYPES[kind]), **none, **ids}
    with write_folder(out) as folder:
        write_json(folder / "config.json", config)
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            if isinstance(content, str):
                (folder / name).write_text(content, encoding="utf-8")
            else:
                write_json(folder / name, content)
        write_shards(folder, tensors, max_shard, progress)
    return out


def _plan(file: GgufFile, rows: Rows, hparams: HParams, kind: str) -> list[Planned]:
    sources = sources_of(hparams)
    infos = file.core.tensors()
    for name, (shape, *_) in infos.items():
        if name not in sources and name not in (hparams.rope.factors if hparams.rope else {}):
            raise ValueError(f"[export] {file.core.path}: the tensor {name!r} has no place in a {hparams.arch} model")
        if name in sources and tuple(shape) != sources[name].target:
            raise ValueError(
                f"[export] {file.core.path}: {name!r} has the shape {tuple(shape)}, the metadata ask for "
                f"{sources[name].target}"
            )
    missing = [name for name in sources if name not in infos]
    if missing:
        raise ValueError(f"[export] {file.core.path}: tensor {missing[0]!r} is missing ({len(missing)} are)")
    return [planned for name, source in sources.items() for planned in _planned(rows, hparams, kind, name, source)]


def _planned(rows: Rows, hparams: HParams, kind: str, name: str, source: Source) -> Iterator[Planned]:
    for i, target in enumerate(source.names):

        def make(i: int = i, target: str = target) -> Iterator[Array]:
            read = rows.of(name)
            if source.change == "stack":
                return hf_rows(lambda _: read(slice(i, i + 1))[0], source.shape, "", hparams.head_dim, kind, target)
            return hf_rows(read, source.target, source.change, hparams.head_dim, kind, target)

        yield Planned(target, kind, source.shape, make)
