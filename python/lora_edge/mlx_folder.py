"""Reading an adapter folder of mlx-lm: adapter_config.json beside adapters.safetensors.

Facts are those of mlx-lm (tuner/lora.py, tuner/dora.py): y += scale * (x @ lora_a) @ lora_b with lora_a [k, r] and
lora_b [r, n]; for an embedding y += scale * lora_a[token] @ lora_b, and where the output is tied to it, the output
gets the transposed product; m [n] is DoRA's magnitude. Only the last num_layers layers are adapted.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NoReturn

from .adapter_parts import AdapterFile, Array, BaseInfo, LoraEntry, check_factors, packed, vector
from .hf_names import gguf_stem, is_permuted, permute_rows
from .peft_config import read_json, show
from .safetensors_file import SafetensorsFile

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"

_KEY = re.compile(r"(.+)\.(lora_a|lora_b|m)")


def is_mlx(path: Path) -> bool:
    """Whether it is a folder of mlx-lm's. ValueError: it is the weights of one."""
    if path.name == WEIGHTS and path.is_file():
        raise ValueError(f"[mlx] {path} is one file of an MLX adapter: give its folder, '{path.parent}'")
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def read_mlx(folder: Path, arch: str, base: BaseInfo) -> AdapterFile:
    """The adapter in the base's layout. ValueError names what cannot be honoured; OSError: a file is missing."""
    fields = read_json(folder / CONFIG, "mlx")
    scale, dora = _scale(folder, fields), _is_dora(folder, fields)
    file = SafetensorsFile(folder / WEIGHTS)
    found: dict[str, dict[str, str]] = {}
    for key in file:
        match = _KEY.fullmatch(key)
        if match is None:
            _fail(folder, f"the tensor {key[:120]!r} is not supported")
        found.setdefault(match.group(1), {})[match.group(2)] = key
    first = base.n_layer - _n_layers(folder, fields, base)
    entries: dict[str, LoraEntry] = {}
    for module, parts in found.items():
        stem = gguf_stem(module)
        if stem is None:
            _fail(folder, f"the module {module[:120]!r} is not one of this kind of model")
        if stem.startswith("blk.") and int(stem.split(".")[1]) < first:
            _fail(folder, f"{module} is adapted, but only layers from {first} on are (num_layers): for another base?")
        if {"lora_a", "lora_b"} - parts.keys() or ("m" in parts) != dora or (dora and stem == "token_embd"):
            wanted = "lora_a, lora_b and m" if dora else "lora_a and lora_b"
            _fail(folder, f"{module} has {', '.join(sorted(parts))} where {wanted} are read")
        a, b = (_array(folder, file, parts[part]) for part in ("lora_a", "lora_b"))
        if a.ndim != 2 or b.ndim != 2:
            _fail(folder, f"{module}: lora_a and lora_b have shapes {a.shape} and {b.shape}, not of matrices")
        tensor = f"{stem}.weight"
        if tensor == "token_embd.weight":
            check_factors(folder, base, tensor, a, b.T)
            entries[tensor] = LoraEntry(packed(a), packed(b.T), scale)
            if base.tied:
                entries["output.weight"] = LoraEntry(packed(b), packed(a), scale)
            continue
        check_factors(folder, base, tensor, a.T, b.T)
        rows: Array = b.T
        m = vector(folder, tensor, "m", _array(folder, file, parts["m"]), len(rows)) if dora else None
        if is_permuted(arch, stem):
            n_head = base.n_head if stem.endswith("attn_q") else base.n_head_kv
            rows, m = permute_rows(rows, n_head), m if m is None else packed(permute_rows(m, n_head))
        entries[tensor] = LoraEntry(packed(a.T), packed(rows), scale, m)
    if not entries:
        _fail(folder, "the adapter holds no LoRA tensors")
    return AdapterFile(folder.resolve().name, "mlx", entries, fields)


def _fail(folder: Path, what: str) -> NoReturn:
    raise ValueError(f"[mlx] {folder}: {what}")


def _array(folder: Path, file: SafetensorsFile, key: str) -> Array:
    dtype = file.info[key].dtype
    if dtype not in ("F32", "F16", "BF16"):
        _fail(folder, f"{key!r} has the type {dtype}; F32, F16 and BF16 are read")
    return file.array(key)


def _is_dora(folder: Path, fields: dict[str, Any]) -> bool:
    kind = fields.get("fine_tune_type", "dora" if fields.get("use_dora") else "lora")
    if kind not in ("lora", "dora"):
        _fail(folder, f"fine_tune_type {show(kind)} is not supported; lora and dora are")
    return bool(kind == "dora")


def _scale(folder: Path, fields: dict[str, Any]) -> float:
    parameters = fields.get("lora_parameters")
    if not isinstance(parameters, dict) or "scale" not in parameters:
        _fail(folder, "its adapter_config.json has no lora_parameters with a scale")
    numbers = [parameters.get(name) for name in ("scale", "alpha", "rank")]
    if any(x is not None and not _is_number(x) for x in numbers):
        _fail(folder, f"lora_parameters: scale, alpha and rank are {show(numbers)}, not finite numbers")
    scale, alpha, rank = numbers
    if alpha is not None and alpha != rank:
        _fail(folder, f"lora_parameters.alpha = {alpha}: versions of mlx-lm disagree on what it scales")
    return float(scale or 0.0)


def _is_number(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) < 3e38 and not math.isnan(x)


def _n_layers(folder: Path, fields: dict[str, Any], base: BaseInfo) -> int:
    n = fields.get("num_layers", fields.get("lora_layers", -1))
    if type(n) is not int or n < -1:
        _fail(folder, f"num_layers = {show(n)} is not a number of layers")
    return base.n_layer if n == -1 else min(n, base.n_layer)
