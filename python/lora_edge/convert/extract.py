"""A LoRA adapter from the difference of a tuned model and its base, by truncated singular value decomposition."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter_file import AdapterFile, BaseInfo, LoraEntry
from ..checks import real, whole
from ..gguf_file import GgufFile, open_gguf
from ..quant import to_f32
from .adapter_gguf import write_adapter
from .adapter_peft import write_peft
from .base_file import EMBEDDING, OUTPUT, Floats, as_gguf, check_apart, paired
from .low_rank import decompose, decompose_to
from .outputs import check_new, check_out
from .weights import convert
from .writer import check_type

MAX_RANK = 1 << 12
_SHOWN = 6  # names in a message


@dataclass(frozen=True)
class ExtractedTensor:
    """D = tuned - base of one tensor [n, k] and the factors made of it, as they are stored.

    delta: ‖D‖ / ‖W‖. error: ‖D - B A‖ / ‖D‖. energy: the share of ‖D‖² that is kept, 1 - error².
    """

    name: str
    shape: tuple[int, int]
    rank: int
    delta: float
    error: float
    energy: float


@dataclass(frozen=True)
class ExtractReport:
    """path: of the adapter. tensors: those that it adapts. left_out: tensors that differ and that it leaves as the
    base's, with ‖D‖ / ‖W‖. over: those whose error is beyond the tolerance at the largest rank."""

    path: Path
    tensors: list[ExtractedTensor]
    left_out: dict[str, float]
    over: list[str]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def extract(
    tuned: str | os.PathLike[str],
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    rank: int | None = None,
    tolerance: float | None = None,
    max_rank: int | None = None,
    embeddings: bool = False,
    allow_differences: bool = False,
    type: str = "f32",
    progress: Callable[[int, int, str], None] | None = None,
) -> ExtractReport:
    """Writes an adapter (scale 1) that makes `tuned` of `base`, as a GGUF file where `out` ends in .gguf, else as a new
    PEFT folder; both models are GGUF files or Hugging Face folders of one
    architecture and shape.

    rank: of every tensor; or tolerance: each gets the smallest rank with ‖D - B A‖ ≤ tolerance · ‖D‖, at most max_rank
    (256). Tensors that don't differ get none. embeddings: adapt the embedding too. type: "f32", "f16" or "bf16", of the
    factors. ValueError: nothing differs; what differs is no linear (norms, biases, the embedding) and
    `allow_differences` is not set; or the models are of different shapes. FileExistsError: `out` is a folder with
    something in it. Memory: about four times the largest tensor
    in float32, and the adapter. progress(tensors done, in all, name).
    """
    check_type(type, ("f32", "f16", "bf16"))
    if (rank is None) == (tolerance is None):
        raise ValueError("[extract] give either a rank or a tolerance")
    if rank is not None:
        whole("rank", rank, 1, MAX_RANK)
        if max_rank is not None:
            raise ValueError("[extract] max_rank belongs to a tolerance; a rank is one already")
    elif tolerance is not None and not 0 <= real("tolerance", tolerance) < 1:
        raise ValueError(f"[extract] tolerance is {tolerance}, not from 0 to below 1")
    limit = 256 if max_rank is None else whole("max_rank", max_rank, 1, MAX_RANK)
    out = Path(out)
    if out.suffix == ".gguf":
        check_out(out)
    else:
        check_new(out)
    check_apart(out, [tuned, base])
    with ExitStack() as stack:
        files = [open_gguf(stack.enter_context(as_gguf(path, out))) for path in (tuned, base)]
        return _extract(files[0], files[1], out, rank, tolerance, limit, embeddings, allow_differences, type, progress)


def _extract(
    tuned: GgufFile,
    base: GgufFile,
    out: Path,
    rank: int | None,
    tolerance: float | None,
    limit: int,
    embeddings: bool,
    allow: bool,
    type: str,
    progress: Callable[[int, int, str], None] | None,
) -> ExtractReport:
    info = BaseInfo.from_gguf(base)
    pairs = paired(tuned, base, ("tuned model", "base"))
    linears = {name for name in pairs if (name in info.shapes and name != EMBEDDING) or name == OUTPUT}
    if embeddings:
        linears.add(EMBEDDING)
    left_out = {n: size for n, p in pairs.items() if n not in linears and (size := _difference(tuned, base, p)) > 0}
    if left_out and not allow:
        names = ", ".join(list(left_out)[:_SHOWN]) + (f" and {len(left_out) - _SHOWN} more" * (len(left_out) > _SHOWN))
        raise ValueError(
            f"[extract] {names} differ too, which a LoRA of the linears can't say: leave them as the base's "
            "with allow_differences (--allow-differences)"
            + (", or adapt the embedding too with embeddings (--embeddings)" if EMBEDDING in left_out else "")
        )
    entries: dict[str, LoraEntry] = {}
    tensors, over = [], []
    for i, name in enumerate(pairs):
        if name in linears:
            d, size = _delta(tuned, base, pairs[name])
            if size:
                entry, found = _entry(name, d, size, rank, tolerance, limit, type)
                tensors.append(found)
                entries[name] = entry
                if tolerance is not None and found.error > tolerance * 1.01 + _rounding(type):
                    over.append(name)
                if name == EMBEDDING and info.tied and OUTPUT not in tuned.tensors:
                    entries[OUTPUT] = LoraEntry(entry.b.T.copy(), entry.a.copy(), entry.scale)  # both ends of the tie
        if progress is not None:
            progress(i + 1, len(pairs), name)
    if not entries:
        raise ValueError("[extract] no linear differs: the two models are the same, and there is nothing to extract")
    adapter = AdapterFile(out.stem, "gguf", entries, {})
    if out.suffix == ".gguf":
        write_adapter(adapter, info, out, type, out.stem, None)
    else:
        write_peft(adapter, info, out, type, str(base.metadata.get("general.name", "")))
    return ExtractReport(out, tensors, left_out, over)


def _difference(tuned: GgufFile, base: GgufFile, pair: tuple[str, str]) -> float:
    return _delta(tuned, base, pair)[1]


def _delta(tuned: GgufFile, base: GgufFile, pair: tuple[str, str]) -> tuple[Floats, float]:
    """D = tuned - base, and ‖D‖ / ‖base‖."""
    w = to_f32(base.tensors[pair[1]])
    d = to_f32(tuned.tensors[pair[0]])
    norm = float(np.linalg.norm(w))
    d -= w
    size = float(np.linalg.norm(d))
    if not math.isfinite(size):
        raise ValueError(f"[extract] {pair[0]}: a value is not finite")
    return d, size / max(norm, 1e-30)


def _entry(
    name: str, d: Floats, size: float, rank: int | None, tolerance: float | None, limit: int, type: str
) -> tuple[LoraEntry, ExtractedTensor]:
    if rank is not None:
        found = decompose(d, rank)
        r = min(rank, len(found.s))
    else:
        assert tolerance is not None
        found, r = decompose_to(d, tolerance, limit)
        r = max(r, 1)
    a, b = (convert(x, type, name) for x in found.factors(r))
    step = max(1, (1 << 22) // d.shape[1])
    error, wide = 0.0, to_f32(a)
    for at in range(0, len(d), step):
        part = d[at : at + step] - to_f32(b[at : at + step]) @ wide
        error += float(np.vdot(part, part))
    error = math.sqrt(error / found.energy)
    if name == EMBEDDING:  # D [n_vocab, n_embd] = a bᵀ, a row of a per token
        a, b = b, np.ascontiguousarray(a.T)
    n, k = d.shape
    return LoraEntry(a, b, 1.0), ExtractedTensor(name, (n, k), r, size, error, 1 - error**2)


def _rounding(type: str) -> float:
    """What rounding the factors adds to the error at most."""
    return {"f32": 1e-6, "f16": 1e-3, "bf16": 8e-3}[type]
