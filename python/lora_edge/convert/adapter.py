"""Adapters from one format to another: PEFT and MLX folders and GGUF files, each to each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..adapter_file import BaseInfo, read_adapter
from ..adapter_parts import linears_of
from ..base_copy import WeightSource, check_base_copies
from ..encoder_names import ENCODER, family_of
from ..gguf_file import open_gguf
from ..hf_names import gguf_stem
from ..token_rows import with_token_factors
from .adapter_gguf import write_adapter
from .adapter_mlx import write_mlx
from .adapter_peft import write_peft
from .encoder import is_encoder, plan_encoder
from .fields import read_json
from .hparams import read_hparams
from .outputs import check_new, check_out
from .weights import WeightFolder
from .writer import Progress, check_type

FORMATS = ("gguf", "peft", "mlx")


def convert_adapter(
    source: str | os.PathLike[str],
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    type: str | None = "f32",
    to: str | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert an adapter for `base`, a GGUF file or a Hugging Face folder (config.json suffices for most), into another
    format.

    source: a PEFT folder, an MLX folder or a GGUF adapter.  to: "gguf", "peft" or "mlx"; None is GGUF for an
    `out` that ends in .gguf, else PEFT.  type: "f32", "f16" or "bf16", for GGUF also "q8_0" (see
    `adapter_gguf.write_adapter`); None keeps the tensors' own in a folder, and is f32 in GGUF.  A folder is new
    or empty.  ValueError: the adapter is not for this base, or cannot be said exactly.  FileExistsError: there is
    something in the folder.
    """
    base, out = Path(base), Path(out)
    to = ("gguf" if out.suffix == ".gguf" else "peft") if to is None else to
    if to not in FORMATS:
        raise ValueError(f"[convert] {to!r} is not a format of adapters; {', '.join(FORMATS)} are")
    check_type(type or "f32", ("f32", "f16", "bf16", "q8_0") if to == "gguf" else ("f32", "f16", "bf16"))
    if to == "gguf":
        check_out(out)
    else:
        check_new(out)
    info, weight_of = _open_base(base)
    adapter = read_adapter(source, info.arch, info)
    if to == adapter.kind == "gguf":
        raise ValueError(f"[convert] {source} is a GGUF adapter already")
    check_base_copies(adapter, weight_of)
    base_name = str(adapter.config.get("base_model_name_or_path") or adapter.config.get("model") or base.name)
    if to == "gguf":
        adapter = with_token_factors(adapter, info, weight_of)
        write_adapter(adapter, info, out, type or "f32", name or adapter.name, progress)
    else:
        {"peft": write_peft, "mlx": write_mlx}[to](adapter, info, out, type, base_name)
    return out


def _open_base(base: Path) -> tuple[BaseInfo, WeightSource]:
    """What an adapter has to fit, and a way to look at a tensor of the base (None where it isn't at hand)."""
    if not base.is_dir():
        file = open_gguf(base)
        return BaseInfo.from_gguf(file), lambda name: file.tensors.get(name)
    config = base / "config.json"
    if config.is_file() and is_encoder(table := read_json(config)):
        return _open_encoder(base, table)
    hparams = read_hparams(base)
    info = BaseInfo(hparams.arch, hparams.n_head, hparams.n_head_kv, hparams.head_dim, hparams.linear_shapes())
    try:
        weights = WeightFolder(base)
    except FileNotFoundError:
        return info, lambda name: None
    by_name = {f"{gguf_stem(source.removesuffix('.weight'), info.arch)}.weight": source for source in weights}
    return info, lambda name: weights.array(by_name[name]) if name in by_name else None


def _open_encoder(base: Path, config: dict[str, Any]) -> tuple[BaseInfo, WeightSource]:
    metadata, tensors = plan_encoder(base, config, "f32", base.name)
    plain = {key: value for key, (value, _) in metadata.items()}
    n_head, n_embd = (int(plain[f"{ENCODER}.{key}"]) for key in ("attention.head_count", "embedding_length"))
    by_name = {tensor.name: tensor for tensor in tensors}
    shapes = linears_of({name: tensor.shape for name, tensor in by_name.items()})
    info = BaseInfo(ENCODER, n_head, n_head, n_embd // n_head, shapes, family_of(plain))
    return info, lambda name: np.concatenate([*by_name[name].chunks()]) if name in by_name else None
