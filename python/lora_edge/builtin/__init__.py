"""The model that ships with the package: a smart-home base and its adapters (docs/builtin.md)."""

from __future__ import annotations

from pathlib import Path

NAME = "builtin"
_FOLDER = Path(__file__).parent


def base() -> Path:
    """The base's GGUF file."""
    return _FOLDER / "base.gguf"


def adapters() -> dict[str, Path]:
    """The adapters' GGUF files by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.gguf")) if path.name != "base.gguf"}
