"""Hugging Face model folder -> GGUF, for the classes in `architectures.TABLE`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import gguf

from .changes import gguf_rows
from .encoder import is_encoder, plan_encoder
from .fields import read_json
from .hparams import HParams, read_hparams
from .metadata import STRING, U32, Metadata, model_metadata
from .outputs import check_out
from .vocab import read_vocab
from .weights import Array, WeightFolder, stored_type
from .writer import TYPES, Planned, Progress, check_type, planned_whole, write_gguf


def convert_model(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    type: str = "f16",
    name: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert a folder of config.json + safetensors (+ tokenizer.json) to one GGUF file; returns its path.

    type: "f32", "f16", "bf16", "q8_0" or "q4_0", for matrices; vectors are f32, and rows that don't divide into
    blocks are f16. progress(bytes written, bytes in all, tensor) is called after each tensor.  Memory: about the
    largest tensor as it is stored, and 100 MB. A folder without a tokenizer gives a file without one.  ValueError names
    whatever the file could not say exactly: an unknown tensor, a missing one, a shape that contradicts
    config.json, a setting that is not supported.
    """
    check_type(type)
    folder, out = Path(folder), Path(out)
    check_out(out)
    name = name or folder.resolve().name
    config = folder / "config.json"
    if config.is_file() and is_encoder(table := read_json(config)):
        own, tensors = plan_encoder(folder, table, type, name)
        write_gguf(out, "bert", {**_general(name, type), **own}, tensors, progress)
        return out
    hparams = read_hparams(folder)
    weights = WeightFolder(folder)
    if hparams.tied and _tie_is_broken(hparams, weights):
        hparams = dataclasses.replace(hparams, tied=False)
    tensors = plan_tensors(hparams, weights, type)
    metadata: Metadata = {
        **_general(name, type),
        **model_metadata(hparams),
        **read_vocab(folder, hparams.n_vocab, hparams.raw, name),
    }
    write_gguf(out, hparams.arch, metadata, tensors, progress)
    return out


def _general(name: str, type: str) -> Metadata:
    return {
        "general.type": ("model", STRING),
        "general.name": (name, STRING),
        "general.file_type": (int(TYPES[type][1]), U32),
        "general.quantization_version": (gguf.GGML_QUANT_VERSION, U32),
    }


class Source(NamedTuple):
    """Where a tensor of the file comes from: `names` in the folder (several are stacked), each of `shape`."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    target: tuple[int, ...]
    change: str


def sources_of(hparams: HParams) -> dict[str, Source]:
    """GGUF name -> source of every tensor that the file gets, bar the factors of frequencies."""
    sources = {}
    for module, stem, weight in hparams.weights():
        shape = hparams.shape(weight)
        if weight.change == "stack":
            names = tuple(f"{module}.norms.{i}.weight" for i in range(shape[0]))
            sources[f"{stem}.weight"] = Source(names, shape[1:], shape, weight.change)
            continue
        stored = shape[::-1] if weight.change == "transpose" else shape
        sources[f"{stem}.weight"] = Source((f"{module}.weight",), stored, shape, weight.change)
        if weight.bias and hparams.has(weight.bias):
            sources[f"{stem}.bias"] = Source((f"{module}.bias",), shape[:1], shape[:1], weight.change)
    if hparams.tied and hparams.architecture.own_output:
        sources["output.weight"] = sources["token_embd.weight"]
    return sources


def plan_tensors(hparams: HParams, weights: WeightFolder, type: str) -> list[Planned]:
    """Pair every tensor of the folder with one of the file, and every one of the file with one of the folder.

    A tied model (tie_word_embeddings) may store the shared matrix under either name or, equal, under both;
    it becomes token_embd.weight.
    """
    expected = sources_of(hparams)
    renamed = _renamed(hparams, weights)
    wanted = {name: source for source in expected.values() for name in source.names}
    for name, stored in renamed.items():
        if name not in wanted:
            raise ValueError(
                f"[convert] {weights.folder}: the tensor {stored!r} has no place in a {hparams.arch} model"
            )
        if weights.shape(stored) != wanted[name].shape:
            raise ValueError(
                f"[convert] {weights.folder}: {stored!r} has the shape {weights.shape(stored)}, "
                f"config.json asks for {wanted[name].shape}"
            )
        weights.check_type(stored)
    missing = [target for target, source in expected.items() if not renamed.keys() >= set(source.names)]
    if missing:
        raise ValueError(
            f"[convert] {weights.folder}: there is no tensor for {missing[0]} ({len(missing)} are missing)"
        )
    plan = [
        _plan(hparams, weights, type, target, source, tuple(renamed[name] for name in source.names))
        for target, source in expected.items()
    ]
    for name, factors in (hparams.rope.factors if hparams.rope else {}).items():
        plan.append(planned_whole(name, factors))
    return sorted(plan, key=_order)


def _renamed(hparams: HParams, weights: WeightFolder) -> dict[str, str]:
    """The folder's tensors by the names that the table gives them: the prefix, which a model saved without its head
    lacks, is put back, the tied matrix has the embedding's name, and buffers that old versions stored are left out."""
    architecture = hparams.architecture
    prefix, embedding = f"{architecture.prefix}.", f"{architecture.prefix}.{architecture.outer[0].module}.weight"
    bare = not any(name.startswith(prefix) for name in weights)
    names = {}
    for stored in weights:
        name = f"{prefix}{stored}" if bare and not stored.startswith("lm_head.") else stored
        if name.endswith((".rotary_emb.inv_freq", ".attn.masked_bias")):
            continue  # they follow from the configuration
        if architecture.gguf == "gpt2" and name.endswith(".attn.bias"):
            continue  # the causal mask
        if hparams.tied and name == "lm_head.weight":
            if embedding in weights or (bare and embedding.removeprefix(prefix) in weights):
                continue
            name = embedding
        names[name] = stored
    return names


def _tie_is_broken(hparams: HParams, weights: WeightFolder) -> bool:
    """Whether both ends of the tie are stored and differ; transformers then leaves them apart, whatever the
    config says."""
    outer = f"{hparams.architecture.outer[0].module}.weight"
    first = next((n for n in (f"{hparams.architecture.prefix}.{outer}", outer) if n in weights), None)
    second = "lm_head.weight"
    if first is None or second not in weights or weights.same(first, second):
        return False
    if hparams.architecture.no_output:
        raise ValueError(f"[convert] {weights.folder}: 'lm_head.weight' is not the embedding, which {hparams.arch} has "
                         "for its output")  # fmt: skip
    return True


def _plan(
    hparams: HParams, weights: WeightFolder, type: str, target: str, source: Source, stored: tuple[str, ...]
) -> Planned:
    kind = stored_type(type, source.target, target.rpartition(".")[0])

    def make() -> Iterator[Array]:
        for name in stored:
            for rows in gguf_rows(weights.array(name), source.change, hparams.head_dim, kind, name):
                yield rows
                weights.release(name)

    return Planned(target, kind, source.target, make)


def _order(tensor: Planned) -> tuple[int, str]:
    """Embedding first, then the layers in turn, so that a run reads the file forwards."""
    if tensor.name.startswith("blk."):
        return 1 + int(tensor.name.split(".")[1]), tensor.name
    return (0 if tensor.name.startswith(("token_embd", "rope_f", "position_embd")) else 1 << 30), tensor.name
