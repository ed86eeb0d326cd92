"""Tiny adapters in the formats beside PEFT's safetensors: MLX folders, and torch checkpoints made without torch."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from hf_folders import Tensors, hf_module, random_array, write_safetensors
from lora_edge.adapter_file import BaseInfo

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "uint16": "BFloat16Storage", "int64": "LongStorage"}


def mlx_tensors(
    base: BaseInfo, rng: np.random.Generator, ranks: dict[str, int], dtype: str = "float32", dora: bool = False
) -> Tensors:
    tensors: Tensors = {}
    for tensor, r in ranks.items():
        n, k = base.shape(tensor) or (0, 0)
        inputs, outputs = (n, k) if tensor == "token_embd.weight" else (k, n)
        module = hf_module(tensor.removesuffix(".weight"))
        tensors[f"{module}.lora_a"] = random_array(rng, (inputs, r), dtype)
        tensors[f"{module}.lora_b"] = random_array(rng, (r, outputs), dtype)
        if dora:
            tensors[f"{module}.m"] = np.abs(random_array(rng, (outputs,))) + np.float32(0.5)
    return tensors


def write_mlx(folder: Path, tensors: Tensors, scale: float = 20.0, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rank = next(x.shape[1] for name, x in tensors.items() if name.endswith("lora_a"))
    fields = {
        "fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": rank, "dropout": 0.0, "scale": scale},
        **config,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    write_safetensors(folder / "adapters.safetensors", tensors)
    return folder


def text(s: str) -> bytes:
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def number(i: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", i)


def name_of(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor_pickle(x: np.ndarray, key: str, **changes: Any) -> bytes:
    """The call that torch.save writes for a contiguous tensor with a storage of its own."""
    strides = tuple(s // x.itemsize for s in np.ascontiguousarray(x).strides)
    call = {
        "storage": STORAGES[x.dtype.name],
        "size": x.size,
        "offset": 0,
        "shape": x.shape,
        "strides": strides,
        **changes,
    }
    storage = (
        b"(" + text("storage") + name_of("torch", call["storage"]) + text(key) + text("cpu") + number(call["size"])
    )
    arguments = b"(" + storage + b"tQ" + number(call["offset"]) + numbers(call["shape"]) + numbers(call["strides"])
    return (
        name_of("torch._utils", "_rebuild_tensor_v2")
        + arguments
        + b"\x89"
        + name_of("collections", "OrderedDict")
        + b")RtR"
    )


def state_dict_pickle(tensors: Tensors, **changes: Any) -> bytes:
    items = b"".join(text(n) + tensor_pickle(x, str(i), **changes) for i, (n, x) in enumerate(tensors.items()))
    return b"\x80\x02}q\x00(" + items + b"u."


def write_torch(path: Path, tensors: Tensors, pickle: bytes | None = None, *, compression: int = 0) -> Path:
    """What torch.save(tensors, path) writes; or with another pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", state_dict_pickle(tensors) if pickle is None else pickle)
        archive.writestr("archive/byteorder", b"little")
        for i, x in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{i}", np.ascontiguousarray(x).tobytes())
        archive.writestr("archive/version", b"3\n")
    return path
