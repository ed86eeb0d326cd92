"""PEFT LoRA folder -> GGUF adapter file, as llama.cpp reads it.

llama.cpp knows one alpha per file and scales by alpha / r, r of each tensor.  Scales that this cannot say
(rsLoRA with several ranks, alpha_pattern) are folded into B: the file's alpha is the one that fits most
tensors, and B of the others is multiplied, in float32, by what remains.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import gguf
import numpy as np

from ..adapter_file import AdapterFile, BaseInfo, LoraEntry, read_adapter
from ..base_copy import WeightSource, check_base_copies
from ..gguf_file import open_gguf
from ..hf_names import gguf_stem
from .hparams import read_hparams
from .weights import Array, WeightFolder, convert, to_f32
from .writer import Planned, Progress, check_out, check_type, write_gguf

F32, STRING = gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING


def convert_adapter(
    folder: str | os.PathLike[str],
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    type: str = "f32",
    name: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Convert a PEFT folder to a GGUF adapter for `base`, a GGUF file or a Hugging Face folder (config.json
    suffices).

    type: "f32", "f16" or "bf16".  ValueError: the adapter is not for this base, or cannot be said exactly
    (`read_adapter`).
    """
    check_type(type, ("f32", "f16", "bf16"))
    base, out = Path(base), Path(out)
    check_out(out)
    info, weight_of = _open_base(base)
    adapter = read_adapter(folder, info.arch, info)
    if adapter.kind != "peft":
        raise ValueError(f"[convert] {folder} is a GGUF adapter already")
    check_base_copies(adapter, weight_of)
    alpha = common_alpha(adapter)
    tensors = []
    for tensor, entry in adapter.entries.items():
        tensors += _plan(tensor, entry, alpha, type)
    metadata = {
        "general.type": ("adapter", STRING),
        "general.name": (name or adapter.name, STRING),
        "adapter.type": ("lora", STRING),
        "adapter.lora.alpha": (alpha, F32),
    }
    write_gguf(out, info.arch, metadata, tensors, progress)
    return out


def common_alpha(adapter: AdapterFile) -> float:
    """The alpha with which alpha / r is the scale of most tensors.  ValueError: all scales are 0."""
    alphas = Counter(entry.scale * entry.b.shape[1] for entry in adapter.entries.values() if entry.scale)
    if not alphas:
        raise ValueError(f"[convert] {adapter.name}: every scale is 0; llama.cpp would read alpha 0 as no scale at all")
    return float(np.float32(alphas.most_common(1)[0][0]))


def _plan(tensor: str, entry: LoraEntry, alpha: float, type: str) -> list[Planned]:
    share = entry.scale * entry.b.shape[1] / alpha
    exact = abs(share - 1) < 1e-7  # what remains is the rounding of alpha to float32

    def make_b() -> Array:
        b = entry.b if exact else to_f32(entry.b) * np.float32(share)
        return convert(b, type, f"{tensor}.lora_b")

    return [
        Planned(f"{tensor}.lora_a", type, entry.a.shape, lambda: convert(entry.a, type, f"{tensor}.lora_a")),
        Planned(f"{tensor}.lora_b", type, entry.b.shape, make_b),
    ]


def _open_base(base: Path) -> tuple[BaseInfo, WeightSource]:
    """What an adapter has to fit, and a way to look at a tensor of the base (None where it isn't at hand)."""
    if not base.is_dir():
        file = open_gguf(base)
        return BaseInfo.from_gguf(file), lambda name: file.tensors.get(name)
    hparams = read_hparams(base)
    info = BaseInfo(hparams.arch, hparams.n_head, hparams.n_head_kv, hparams.head_dim, hparams.linear_shapes())
    try:
        weights = WeightFolder(base)
    except FileNotFoundError:
        return info, lambda name: None
    by_name = {f"{gguf_stem(source.removesuffix('.weight'))}.weight": source for source in weights}
    return info, lambda name: weights.array(by_name[name]) if name in by_name else None
