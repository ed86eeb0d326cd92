"""What inference needs, part by part, in bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import TYPE_CHECKING

from .header import Header
from .limits import limits
from .process import imports

if TYPE_CHECKING:
    from ..model import Model

PAGE = 64  # positions in a page of keys and values
ROWS = 256  # of a pass at most
SCRATCH = 512 * 1024  # of a thread
TEXT = 200  # of a token or merge in the tokenizer, measured: 20 MB for 151,936 and as many merges, less
FIRST_USE = 4_000_000  # code that the first pass touches, measured


def kv_bytes(n_layer: int, kv_dim: int, n_ctx: int, kind: str) -> int:
    """Keys and values of n_ctx positions, in whole pages. kind: "f32", "f16" or "q8_0"."""
    per = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}[kind]
    return int(-(-n_ctx // PAGE) * PAGE * 2 * kv_dim * n_layer * per)


def check_context(model: Model) -> None:
    """MemoryError: keys and values of a text that fills the model's context don't fit. The weights, pages of a file,
    need not all be there at a time."""
    c, kind = model.config, model.core.kv_type
    needed = kv_bytes(c.n_layer, c.n_head_kv * c.head_dim, model.n_ctx, kind)
    room = next(iter(limits()), None)
    if room is not None and needed > room.n_bytes:
        advice = "give -c with less" if kind == "q8_0" or c.head_dim % 32 else "give -c with less, or --kv-type q8_0"
        raise MemoryError(
            f"[plan] keys and values of {model.n_ctx} tokens take {needed / 1e6:,.0f} MB, but there are "
            f"{room.n_bytes / 1e6:,.0f} MB ({room.what}): {advice}"
        )


def inference_parts(
    header: Header, n_ctx: int, *, kv_type: str = "auto", adapters: Seq[str] = (), threads: int = 1, rows: int = ROWS
) -> dict[str, int]:
    """Of a text that fills n_ctx positions, read in passes of `rows` tokens. Adapters: A and B lie in memory of their
    own in the end, as large as in the file, which is let go."""
    kind = kv_type if kv_type != "auto" else "f32" if header.f32 else "f16"
    if not header.causal:  # a text is one pass
        kind, rows = "f32", n_ctx
    widest = max(n for stem, (n, _) in header.layer().items() if stem.startswith("ffn")) + header.layer_ff
    streams = 3 * header.n_embd + header.q_dim + 2 * header.kv_dim + widest
    return {
        "base": imports("runtime")[0] + FIRST_USE + TEXT * header.n_texts,
        "weights": header.file_bytes,
        "adapters": sum(_adapter_bytes(Path(path)) for path in adapters),
        "kv_cache": kv_bytes(header.n_layer, header.kv_dim, n_ctx, kind),
        "activations": min(rows, n_ctx) * streams * 5 + SCRATCH * threads,  # f32, and 8 bits of what is multiplied
        "logits": 3 * 4 * header.n_vocab * header.causal,  # in the core, in the sequence, and for the sampler
    }


def _adapter_bytes(path: Path) -> int:
    """FileNotFoundError: it isn't there."""
    if path.is_dir():
        return sum(os.path.getsize(p) for p in path.iterdir() if p.suffix in (".safetensors", ".bin", ".npz"))
    return os.path.getsize(path)
