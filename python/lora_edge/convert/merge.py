"""A base with adapters merged into its weights: one model for where a single adapter is all that is ever needed."""

from __future__ import annotations

import os
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from .. import hub
from ..adapter_file import AdapterFile, BaseInfo, LoraEntry, read_adapter
from ..adapter_parts import LOOKED_UP
from ..base_copy import check_base_copies
from ..encoder_names import ENCODER, HEAD, LABELS, LABELS_KEY
from ..gguf_file import BLOCKS, BlockRows, GgufFile, open_gguf
from ..quant import to_f32
from ..token_rows import with_token_factors
from .base_file import Floats, as_gguf, check_apart, shape_of
from .outputs import check_out
from .weights import CHUNK, Array, convert, meaning, stored_shape, stored_type
from .writer import TYPES, Planned, Progress, check_type, write_gguf

Part = tuple[LoraEntry, float]  # and the weight given to it


@dataclass(frozen=True)
class MergedTensor:
    """What storing W + D in `type` did to one tensor, D = Σ weight · scale · B A, and where an adapter replaces W the
    difference of its weight; S is what was stored. All are ratios of Frobenius norms but `kept`.

    error: ‖S - (W + D)‖ / ‖W + D‖. delta: ‖D‖ / ‖W‖. delta_error: ‖S - (W + D)‖ / ‖D‖; at 1 the rounding is as large
    as what the adapters say. kept: ⟨S - W, D⟩ / ‖D‖², the part of D that is in S: 1, where rounding is fair; towards
    0, where D is far below a step and W lies on the steps already.
    """

    name: str
    type: str
    error: float
    delta: float
    delta_error: float
    kept: float


@dataclass(frozen=True)
class MergeReport:
    """path: of the file written. tensors: those that the adapters change, in the file's order."""

    path: Path
    tensors: list[MergedTensor]

    def as_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "tensors": [asdict(t) for t in self.tensors]}


def merge(
    base: str | os.PathLike[str],
    adapters: Seq[tuple[str | os.PathLike[str], float]],
    out: str | os.PathLike[str],
    *,
    type: str | None = None,
    progress: Progress | None = None,
) -> MergeReport:
    """Writes W + Σ weight · scale · B A of a base (a GGUF file or a Hugging Face folder) and adapters (GGUF or PEFT,
    each with its weight) as one GGUF file; sums are made in float32, tensor by tensor. Whole modules (modules_to_save),
    labels among them, take the place of the base's, whatever their adapter's weight, unless that is 0.

    type: "f32", "f16", "bf16", "q8_0" or "q4_0", as in `convert_model`; None keeps each tensor's own (a folder's: f16;
    blocks of less than 8 bits become q8_0).
    A tied output becomes a tensor of its own where an adapter changes it or the embedding alone. ValueError: an
    adapter is not for this base, the sum doesn't fit the type, or `out` is one of the sources. Memory: about the
    largest tensor, and some 2 KB for each token of the vocabulary.
    """
    out, base, adapters = Path(out), hub.local(base), [(hub.local(path), weight) for path, weight in adapters]
    if type is not None:
        check_type(type)
    check_out(out)
    check_apart(out, [base, *(path for path, _ in adapters)])
    if type is None and os.path.isdir(base):
        type = "f16"
    with as_gguf(base, out) as path:
        return _merge(path, adapters, out, type, progress)


def _merge(
    base: Path,
    adapters: Seq[tuple[str | os.PathLike[str], float]],
    out: Path,
    type: str | None,
    progress: Progress | None,
) -> MergeReport:
    source = open_gguf(base)
    info = BaseInfo.from_gguf(source)
    found = [(_read(path, info, source), weight) for path, weight in adapters]
    parts: dict[str, list[Part]] = {}
    for adapter, weight in found:
        for name, entry in adapter.entries.items():
            parts.setdefault(name, []).append((entry, weight))
    wholes = _wholes([adapter for adapter, weight in found if weight], source)
    changed = {*parts, *wholes}
    origins = {name: name for name in [*source.tensors, *(name for name in changed if name in HEAD)]}
    origins |= {name: name for name in wholes if name.endswith(".bias")}
    if info.tied and {"token_embd.weight", "output.weight"} & changed:
        origins["output.weight"] = "token_embd.weight"
    report: list[MergedTensor] = []
    tensors = [
        _plan(source, name, origin, wholes.get(name), parts.get(name, []), type, report)
        for name, origin in origins.items()
    ]
    widened = any(kind in BLOCKS for _, kind, _ in source.core.tensors().values())
    metadata = base_metadata(base, type or ("q8_0" if widened else None))
    for adapter, weight in found:
        if weight and adapter.labels:
            metadata[f"{info.arch}.{LABELS_KEY}"] = (adapter.labels, gguf.GGUFValueType.STRING)
    write_gguf(out, info.arch, metadata, tensors, progress)
    return MergeReport(out, report)


def _read(path: str | os.PathLike[str], info: BaseInfo, source: GgufFile) -> AdapterFile:
    """An adapter of factors and whole weights. ValueError: it is more than that, or of another base."""
    adapter = read_adapter(path, info.arch, info)
    check_base_copies(adapter, source.tensors.get)
    adapter = with_token_factors(adapter, info, source.tensors.get)
    if info.arch != ENCODER and LABELS in adapter.wholes:
        raise ValueError(f"[convert] {path} can't be merged: a decoder's file has no place for labels ({LABELS})")
    if beyond := replace(adapter, wholes={}).beyond_factors:
        raise ValueError(f"[convert] {path} can't be merged: it has {beyond}")
    return adapter


def _wholes(adapters: Seq[AdapterFile], source: GgufFile) -> dict[str, Array]:
    """Tensor -> what takes its place. ValueError: two adapters replace it, or its bias is none of the base's."""
    found: dict[str, Array] = {}
    for adapter in adapters:
        for name, whole in adapter.wholes.items():
            if name in found:
                raise ValueError(f"[convert] two adapters replace {name}: merge one of them")
            found[name] = whole.weight
            bias = f"{name.removesuffix('.weight')}.bias"
            new = name in HEAD and name not in source.tensors
            if not new and (whole.bias is None) != (bias not in source.tensors):
                which = "the base" if whole.bias is None else "the adapter"
                raise ValueError(f"[convert] {adapter.name} is for another base: only {which} has a {bias}")
            if whole.bias is not None:
                found[bias] = whole.bias
    return found


def _plan(
    source: GgufFile,
    name: str,
    origin: str,
    whole: Array | None,
    parts: list[Part],
    type: str | None,
    report: list[MergedTensor],
) -> Planned:
    if origin in source.tensors:
        own, shape, array = source.core.tensors()[origin][1].lower(), shape_of(source, origin), source.tensors[origin]
    elif whole is not None:  # labels, which the base has none of
        own, shape, array = "f32", whole.shape, np.zeros(whole.shape, np.float32)
    else:
        raise ValueError(f"[convert] an adapter changes {name}, which the base does not have")
    narrow = isinstance(array, BlockRows)  # of fewer bits than are written here
    keeps = (type is None or name in LOOKED_UP) and not narrow
    kind = own if keeps or len(shape) == 1 else stored_type(type or "q8_0", shape)
    if whole is None and not parts and kind == own and not narrow:
        return Planned(name, kind, shape, lambda: array)
    if whole is not None and len(shape) == 1:
        return Planned(name, kind, shape, lambda: convert(whole, kind, name))
    return Planned(name, kind, shape, lambda: _stored(array, kind, name, shape, whole, parts, report))


def _stored(
    array: Array,
    kind: str,
    name: str,
    shape: tuple[int, ...],
    whole: Array | None,
    parts: list[Part],
    report: list[MergedTensor],
) -> Array:
    """The tensor, or what takes its place, plus the products of its factors in its new type, some rows at a time."""
    stored, dtype = stored_shape(kind, shape)
    out = np.empty(stored, dtype)
    factors = [_factors(name, entry, weight) for entry, weight in parts]
    error, total, delta, base, kept = np.zeros(5)
    step = max(1, CHUNK // shape[-1])
    for at in range(0, shape[0], step):
        weights = to_f32(array[at : at + step])
        change = np.zeros_like(weights)
        for tall, wide in factors:
            change += tall[at : at + step] @ wide
        wanted = weights if whole is None else to_f32(whole[at : at + step])
        if factors:
            wanted = wanted + change
        rows = out[at : at + step] = convert(wanted, kind, name)
        if whole is not None:
            change = wanted - weights
        elif not factors:
            continue
        moved = meaning(rows, kind) - weights
        error += _square(moved - change)
        total += _square(wanted)
        delta += _square(change)
        base += _square(weights)
        kept += np.vdot(moved, change)
    if whole is not None or factors:
        part = float(kept / delta) if delta else 1.0
        report.append(MergedTensor(name, kind, _ratio(error, total), _ratio(delta, base), _ratio(error, delta), part))
    return out


def _ratio(x: float, y: float) -> float:
    """Of two norms, whose squares these are; 0 beside nothing."""
    return float(np.sqrt(x / y)) if y else 0.0


def _square(x: Floats) -> float:
    """The sum of squares."""
    return float(np.vdot(x, x))


def _factors(name: str, entry: LoraEntry, weight: float) -> tuple[Floats, Floats]:
    """[n, r] and [r, k], whose product is added to W [n, k]."""
    a, b = to_f32(entry.a), to_f32(entry.b)
    tall, wide = (a, b.T) if name == "token_embd.weight" else (b, a)
    scale = entry.scale * weight
    if not abs(scale) <= float(np.finfo(np.float32).max):
        raise ValueError(f"[convert] {name}: the scale {scale} of an adapter is not a finite float32")
    return tall * np.float32(scale), wide


def base_metadata(base: Path, type: str | None) -> dict[str, tuple[Any, gguf.GGUFValueType]]:
    fields = gguf.GGUFReader(base).fields
    metadata = {
        key: (field.contents(), field.types[0])
        for key, field in fields.items()
        if not key.startswith("GGUF.") and key != "general.architecture"
    }
    if type is not None:
        metadata["general.file_type"] = (int(TYPES[type][1]), gguf.GGUFValueType.UINT32)
    return metadata
