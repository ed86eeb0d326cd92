"""A base model as a GGUF file, whatever layout it comes in, and the tensors that two of them share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import hub
from ..gguf_file import GgufFile
from .model import convert_model

Floats = NDArray[np.float32]
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


@contextmanager
def as_gguf(base: str | os.PathLike[str], beside: Path) -> Iterator[Path]:
    """The path of a GGUF file, or of a temporary f32 conversion of a Hugging Face folder, in the folder of `beside`.

    FileNotFoundError: nothing is there. ValueError: the folder can't be converted (`convert_model`)."""
    base = Path(hub.local(base))
    if not base.is_dir():
        if not base.exists():
            raise FileNotFoundError(f"{base}: no such file or folder")
        yield base
        return
    beside.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{beside.name}.", suffix=".tmp", dir=beside.parent) as folder:
        yield convert_model(base, Path(folder) / "base.gguf", type="f32", name=base.resolve().name)


def shape_of(file: GgufFile, name: str) -> tuple[int, ...]:
    """In values: (n, k) or (n,)."""
    return tuple(file.core.tensors()[name][0])


def check_apart(out: Path, sources: list[str | os.PathLike[str]]) -> None:
    """ValueError: the file to write is one of those that are read."""
    for source in sources:
        if out.exists() and os.path.exists(source) and os.path.samefile(out, source):
            raise ValueError(f"[convert] '{out}' is also what is read: give the result another name")


def paired(one: GgufFile, two: GgufFile, called: tuple[str, str]) -> dict[str, tuple[str, str]]:
    """Name -> the tensors of two models that belong together; an output that one of them ties is its embedding.

    called: the models, in messages. ValueError: they differ in architecture, or in a tensor's shape."""
    first, second = called
    arch, other = (str(file.metadata.get("general.architecture")) for file in (one, two))
    if arch != other:
        raise ValueError(f"[convert] the {first} is of architecture {arch}, the {second} of {other}")
    for key, value in two.metadata.items():
        if key.startswith((f"{arch}.attention.head", f"{arch}.block")) and np.any(one.metadata.get(key) != value):
            raise ValueError(f"[convert] {key} is {one.metadata.get(key)} in the {first}, {value} in the {second}")
    pairs = {}
    for name in [*two.tensors, *(n for n in one.tensors if n not in two.tensors)]:
        a, b = (EMBEDDING if name == OUTPUT and name not in file.tensors else name for file in (one, two))
        for file, key, which in ((one, a, first), (two, b, second)):
            if key not in file.tensors:
                raise ValueError(f"[convert] the {which} has no tensor {name[:120]!r}: these are different models")
        if shape_of(one, a) != shape_of(two, b):
            raise ValueError(
                f"[convert] {name[:120]} is {shape_of(one, a)} in the {first} and {shape_of(two, b)} in the {second}"
            )
        pairs[name] = (a, b)
    return pairs
