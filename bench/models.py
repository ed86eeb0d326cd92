"""The files that benchmarks run on, of random weights: made once by tools/make_model.py, under build/bench."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "bench"
RANK = 16
SMALL = ("tiny", "smollm2-135m")  # shapes for what takes minutes, or many bytes, with larger ones


class Files(NamedTuple):
    """A base, two adapters of it (all seven linears, f16), and the base with the first one merged."""

    model: str  # the shape, and the type where it isn't Q8_0
    base: Path
    adapter: Path
    other: Path
    merged: Path


def files_of(model: str) -> Files:
    """model: a shape of tools/make_model.py, or "shape:type"."""
    base = CACHE / model / "base.gguf"
    shape, _, kind = model.partition(":")
    _make(base, "base", shape, base, "--type", kind or "q8_0")
    adapter, other = adapter_of(model, RANK, 1), adapter_of(model, RANK, 2)
    merged = base.with_name("merged.gguf")
    _make(merged, "merge", base, adapter, merged)
    return Files(model, base, adapter, other, merged)


def adapter_of(model: str, rank: int, seed: int = 1) -> Path:
    base = CACHE / model / "base.gguf"
    path = base.with_name(f"r{rank}-{seed}.gguf")
    _make(path, "adapter", base, path, "--rank", rank, "--seed", seed)
    return path


def with_vocabulary(model: str, n: int) -> Path:
    """The shape with n tokens."""
    path = CACHE / model / f"base-{n}.gguf"
    shape, _, kind = model.partition(":")
    _make(path, "base", shape, path, "--vocab", n, "--type", kind or "q8_0")
    return path


def fresh_copy(path: Path, number: int) -> Path:
    """The same file as one that nobody has opened yet: written, on disk, and in the page cache."""
    copy = CACHE / "fresh" / f"{number}.gguf"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)
    with open(copy, "rb") as file:
        os.fsync(file.fileno())
    return copy


def _make(path: Path, *args: object) -> None:
    tool = ROOT / "tools" / "make_model.py"
    if path.exists() and path.stat().st_mtime >= tool.stat().st_mtime:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, tool, *map(str, args)], check=True)


def read_afresh(path: Path) -> None:
    """Has the page cache drop a file and read it in one go, so that all files lie alike in memory: pages that were
    left scattered, or are still being written back, slow decoding by up to a fifth."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(1 << 22):
            pass
