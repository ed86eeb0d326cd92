"""What a token costs: bytes to read and multiply-adds to do, from a model's file. The bounds of any speed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..gguf_file import BLOCKS
from ..model import Model
from ..quant import Q8_0_BLOCK, Q8_0_BYTES


@dataclass(frozen=True)
class Work:
    """weights: bytes of the tensors that every token reads (of a separate embedding one row). kv: bytes of keys and
    values per position. linears: multiply-adds of the layers' linears per token; output: those of the output layer.
    q8: all linears are in blocks, so that their products are integers."""

    weights: int
    kv: int
    linears: int
    output: int
    q8: bool

    def decode_bytes(self, position: float, adapters: int = 0) -> float:
        """Read for the token at a position: weights, keys and values up to it, and adapters of so many bytes."""
        return self.weights + self.kv * (position + 1) + adapters

    def prefill_multiply_adds(self, tokens: int) -> int:
        """Of the base's linears, and of the output layer for the last token alone; attention not counted."""
        return self.linears * tokens + self.output


def work_of(model: Model) -> Work:
    tensors, c = model.core.file.tensors(), model.config
    weights = sum(n_bytes for _, _, n_bytes in tensors.values())
    if not c.tied_embeddings:
        weights -= tensors["token_embd.weight"][2] * (c.n_vocab - 1) // c.n_vocab
    shapes = model.core.linear_shapes()
    linears = sum(n * k for name, (n, k) in shapes.items() if name.startswith("blk."))
    return Work(
        weights=weights,
        kv=2 * c.n_layer * c.n_head_kv * _row_bytes(model.core.kv_type, c.head_dim),
        linears=linears,
        output=c.n_vocab * c.n_embd,
        q8=all(tensors[name][1] in ("Q8_0", *BLOCKS) for name in shapes if name in tensors),
    )


def _row_bytes(kind: str, n: int) -> int:
    return n * Q8_0_BYTES // Q8_0_BLOCK if kind == "q8_0" else n * {"f32": 4, "f16": 2}[kind]


def adapter_bytes(model: Model, names: Iterable[str]) -> int:
    """Bytes of the factors of loaded adapters, each of which a token reads once."""
    return sum(model.adapters[name].n_bytes for name in names)
