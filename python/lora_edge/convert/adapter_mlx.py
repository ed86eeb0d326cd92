"""Writing an adapter folder of mlx-lm, with its one rank and one scale; see mlx_folder for the format.

Factors of a lower rank get columns of zeros, and scales that differ are folded into lora_b, in float32.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NoReturn

import numpy as np

from ..adapter_file import AdapterFile, BaseInfo
from ..encoder_names import ENCODER
from ..mlx_folder import CONFIG, WEIGHTS
from ..quant import to_f32
from .adapter_peft import hf_rows, module_of
from .outputs import write_folder
from .safetensors_writer import write_safetensors
from .weights import Array, convert


def write_mlx(adapter: AdapterFile, info: BaseInfo, out: Path, type: str | None, base: str) -> None:
    """type: "f32", "f16" or "bf16" of the tensors, None for those that they have.  ValueError:
    mlx-lm cannot say the adapter exactly.  FileExistsError: `out` is there already."""
    dora = _check(adapter, info)
    scales = Counter(entry.scale for entry in adapter.entries.values())
    scale, rank = scales.most_common(1)[0][0], max(entry.b.shape[1] for entry in adapter.entries.values())
    if scale == 0:
        _fail(adapter, "most scales are 0, which no other can be folded into")
    tensors: dict[str, Array] = {}
    for tensor, entry in adapter.entries.items():
        module, b = module_of(info, tensor), hf_rows(info, tensor, entry.b)
        if entry.scale != scale:
            b = to_f32(b) * np.float32(entry.scale / scale)
        a = entry.a if tensor == "token_embd.weight" else entry.a.T
        for name, x in (("lora_a", _padded(a, rank)), ("lora_b", _padded(b, rank).T)):
            tensors[f"{module}.{name}"] = np.ascontiguousarray(x)
        if entry.magnitude is not None:
            tensors[f"{module}.m"] = hf_rows(info, tensor, entry.magnitude)
    if type is not None:
        tensors = {name: convert(x, type, name) for name, x in tensors.items()}
    layers = [int(t.split(".")[1]) for t in adapter.entries if t.startswith("blk.")]
    fields = {
        "fine_tune_type": "dora" if dora else "lora",
        "model": base,
        "num_layers": info.n_layer - min(layers, default=info.n_layer - 1),
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": _keys(adapter, info)},
    }
    with write_folder(out) as folder:
        (folder / CONFIG).write_text(json.dumps(fields, indent=4) + "\n", "utf-8")
        write_safetensors(folder / WEIGHTS, tensors, {"format": "mlx"})


def _check(adapter: AdapterFile, info: BaseInfo) -> bool:
    """Whether it is DoRA.  ValueError: it is something that mlx-lm doesn't have."""
    if info.arch == ENCODER:
        _fail(adapter, "mlx-lm has no encoders")
    if adapter.wholes:
        _fail(adapter, f"whole modules ({next(iter(adapter.wholes))}) can't be said")
    if adapter.token_rows:
        _fail(adapter, "trained token rows can't be said")
    if adapter.invocation:
        _fail(adapter, "an activated LoRA (aLoRA) can't be said")
    if any(entry.bias is not None for entry in adapter.entries.values()):
        _fail(adapter, "a bias of lora_B can't be said")
    dora = {entry.magnitude is not None for entry in adapter.entries.values()}
    ends = {"token_embd.weight", "output.weight"} & adapter.entries.keys()
    if len(dora) != 1 or (True in dora and "token_embd.weight" in ends):
        _fail(adapter, "DoRA of the embedding, or of some modules only, can't be said")
    if info.tied and ends:
        _fail(adapter, f"{min(ends)} is adapted alone, and mlx-lm adapts tied ends together")
    return True in dora


def _fail(adapter: AdapterFile, what: str) -> NoReturn:
    raise ValueError(f"[convert] {adapter.name} as an MLX adapter: {what}")


def _padded(x: Array, rank: int) -> Array:
    """[n, r] with zeros up to [n, rank]."""
    return x if x.shape[1] == rank else np.pad(x, ((0, 0), (0, rank - x.shape[1])))


def _keys(adapter: AdapterFile, info: BaseInfo) -> list[str]:
    """The modules as mlx-lm names them: relative to their layer."""
    return sorted({".".join(m.split(".")[3:]) or m for m in (module_of(info, t) for t in adapter.entries)})
