"""Files and folders that appear as a whole, under their names, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_out(out: Path) -> Path:
    """Where `out` leads, links followed. ValueError: something that is no regular file is there."""
    target = out.resolve()
    if target.exists() and not target.is_file():
        raise ValueError(f"[convert] '{out}' is not a regular file: give the name of a file to write")
    return target


def check_new(out: Path) -> Path:
    """Where `out` leads, links followed. FileExistsError: something that is no empty folder is there."""
    target = out.resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"[convert] '{out}' is there already: give the name of a new folder")
    return target


@contextmanager
def write_file(out: Path) -> Iterator[Path]:
    """An empty temporary file beside `out` that takes its place in the end; nothing is left where that fails.

    ValueError: see `check_out`."""
    out = check_out(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, out)
    except BaseException:
        os.unlink(name)
        raise


@contextmanager
def write_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name in the end; nothing is left where that fails.

    FileExistsError: see `check_new`."""
    out = check_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
