"""Converting a model folder once: the result is kept in the user's cache until a file of the folder
changes."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from tqdm import tqdm

from .model import convert_model

FORMAT = 3  # raised whenever the same folder would give another file

_SOURCES = ("*.json", "*.safetensors", "chat_template.jinja", "tokenizer.model", "1_Pooling/config.json")


def cache_folder() -> Path:
    """$LORA_EDGE_CACHE, else lora_edge under $XDG_CACHE_HOME, else under ~/.cache."""
    chosen = os.environ.get("LORA_EDGE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lora_edge"


def cached_conversion(folder: str | os.PathLike[str], *, type: str = "q8_0", name: str | None = None) -> Path:
    """The GGUF file of a Hugging Face model folder, converted now if the cache has none that is up to date.

    Up to date: same path, and same size and time of change of each source file.  A bar shows the progress
    on a terminal.  name: of the model, by default the folder's.  Errors are those of `convert_model`.
    """
    folder = Path(folder).resolve()
    sources = sorted({path for pattern in _SOURCES for path in folder.glob(pattern)})
    state = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    key = hashlib.sha256(repr((FORMAT, str(folder), type, state)).encode()).hexdigest()[:16]
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", name or folder.name)[:80]
    out = cache_folder() / f"{stem}-{type}-{key}.gguf"
    if not out.is_file():
        with tqdm(desc=f"converting {name or folder.name}", unit="B", unit_scale=True, disable=None) as bar:

            def show(done: int, total: int, tensor: str) -> None:
                bar.total = total
                bar.update(done - bar.n)

            convert_model(folder, out, type=type, name=name, progress=show)
    return out
