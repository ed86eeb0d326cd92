"""Checkpoints: files that appear whole under their name, the last two of them kept."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

KEPT = 2
_NAME = re.compile(r"step-(\d{8})\.pt")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes `folder`/step-N.pt beside the last one, to the disk, before it takes its name; older ones go.

    OSError: there is no room; the checkpoints that were there stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for torn in folder.glob("step-*.tmp"):  # of a process that was killed
        torn.unlink()
    target = folder / f"step-{step:08d}.pt"
    temporary = target.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as file:
            sink = _Sink(file)
            torch.save(state, sink)
            if sink.error is not None:
                raise sink.error
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        kept = checkpoints(folder)
        raise OSError(
            error.errno,
            f"[train] the checkpoint of step {step} can't be written ({os.strerror(error.errno or 0)}); "
            + (f"{kept[-1].name} is kept: make room and --resume" if kept else "there is none before it"),
            os.fspath(target),
        ) from None
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)  # the new name, too
    finally:
        os.close(handle)
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink()
    return target


class _Sink:
    """A file for torch.save, which must not meet an exception while it closes its archive: the first is kept."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        pass


def checkpoints(folder: Path) -> list[Path]:
    """Complete ones, oldest first."""
    return sorted(p for p in folder.glob("step-*.pt") if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def last_checkpoint(folder: Path, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest one that can be read, and what it holds; None: the folder has none. What is passed over is said.
    ValueError: all are damaged."""
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return path, load_checkpoint(path)
        except ValueError as error:
            say(f"{error}; going back to the one before")
    if found:
        raise ValueError(f"[train] no checkpoint in '{folder}' can be read: start anew in another folder")
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors and plain values alone are read, never code. ValueError: it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            torn = archive.testzip()  # torch itself doesn't look at the sums
        if torn is not None:
            raise ValueError(f"the sum of its part {torn} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise ValueError(f"[train] the checkpoint '{path}' is damaged: {reason}") from None
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError(f"[train] '{path}' is no checkpoint of lora_edge")
    return state
