"""Writing a GGUF adapter file, as llama.cpp reads it.

llama.cpp knows one alpha per file and scales by alpha / r, r of each tensor.  Scales that this cannot say
(rsLoRA with several ranks, alpha_pattern) are folded into B: the file's alpha is the one that fits most
tensors, and B of the others is multiplied, in float32, by what remains.

What llama.cpp cannot run (DoRA, biases of lora_B, whole modules) is in tensors whose names it refuses; see
cpp/formats/gguf_lora.h.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ..adapter_file import AdapterFile, BaseInfo, LoraEntry
from ..encoder_names import LABELS_KEY
from ..quant import to_f32
from .weights import Array, convert, stored_type
from .writer import Planned, Progress, write_gguf

F32, STRING, ARRAY = gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY


def write_adapter(
    adapter: AdapterFile, info: BaseInfo, out: Path, type: str, name: str, progress: Progress | None
) -> None:
    """type: of factors and whole weights; for q8_0, those whose rows are no multiple of 32 long are f16, as B is where
    r is none.  ValueError: the adapter cannot be said exactly."""
    alpha = common_alpha(adapter)
    tensors = []
    for tensor, entry in adapter.entries.items():
        tensors += _plan(tensor, entry, alpha, type)
    if info.tied and "token_embd.weight" in adapter.entries and "output.weight" not in adapter.entries:
        tensors.append(_planned("token_embd.weight.lookup_only", "f32", np.ones(1, np.float32)))
    for tensor, whole in adapter.wholes.items():
        tensors.append(_planned(f"{tensor}.modules_to_save", type, whole.weight))
        if whole.bias is not None:
            bias = tensor.removesuffix("weight") + "bias"
            tensors.append(_planned(f"{bias}.modules_to_save", "f32", whole.bias))
    metadata: dict[str, tuple[Any, gguf.GGUFValueType]] = {
        "general.type": ("adapter", STRING),
        "general.name": (name, STRING),
        "adapter.type": ("lora", STRING),
        "adapter.lora.alpha": (alpha, F32),
    }
    if adapter.invocation:
        metadata[gguf.Keys.Adapter.ALORA_INVOCATION_TOKENS] = (np.array(adapter.invocation, np.uint32), ARRAY)
    if adapter.labels:
        metadata[f"{info.arch}.{LABELS_KEY}"] = (adapter.labels, STRING)
    write_gguf(out, info.arch, metadata, tensors, progress)


def common_alpha(adapter: AdapterFile) -> float:
    """The alpha with which alpha / r is the scale of most tensors.  ValueError: all scales are 0."""
    alphas = Counter(entry.scale * entry.b.shape[1] for entry in adapter.entries.values() if entry.scale)
    if not alphas and adapter.entries:
        raise ValueError(f"[convert] {adapter.name}: every scale is 0; llama.cpp would read alpha 0 as no scale at all")
    return float(np.float32(alphas.most_common(1)[0][0])) if alphas else 1.0


def _plan(tensor: str, entry: LoraEntry, alpha: float, type: str) -> list[Planned]:
    share = entry.scale * entry.b.shape[1] / alpha
    exact = abs(share - 1) < 1e-7  # what remains is the rounding of alpha to float32

    def folded(x: Array) -> Array:
        return x if exact else to_f32(x) * np.float32(share)

    b_type = stored_type(type, entry.b.shape)
    b = Planned(f"{tensor}.lora_b", b_type, entry.b.shape, lambda: convert(folded(entry.b), b_type, f"{tensor}.lora_b"))
    planned = [_planned(f"{tensor}.lora_a", type, entry.a), b]
    if entry.magnitude is not None:
        planned.append(_planned(f"{tensor}.lora_magnitude", "f32", entry.magnitude))
    if entry.bias is not None:
        planned.append(_planned(f"{tensor}.lora_b.bias", "f32", folded(entry.bias)))
    return planned


def _planned(name: str, type: str, x: Array) -> Planned:
    kind = stored_type(type, x.shape)
    return Planned(name, kind, x.shape, lambda: convert(x, kind, name))
