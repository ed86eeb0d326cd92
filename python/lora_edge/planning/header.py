"""A model's sizes from its file's header alone: no weight is read, and nothing but the header's pages is touched."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..architectures import TABLE
from ..encoder_names import ENCODER, HEAD, family_of
from ..gguf_file import open_gguf

EMBEDDING, OUTPUT, POOLER = "token_embd.weight", "output.weight", HEAD[0]
_ARCHITECTURES = frozenset({ENCODER, *(row.gguf for row in TABLE)})


@dataclass(frozen=True)
class Header:
    """shapes: of every tensor [..., n, k]; sizes: its bytes in the file. Lengths in elements, n_ctx in tokens."""

    path: str
    arch: str
    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]
    f32: bool  # the layers' weights, and so keys and values
    n_layer: int
    n_embd: int
    n_head: int
    head_dim: int
    n_head_kv: int
    n_ctx: int
    n_vocab: int
    capped: bool  # attention's scores are capped, and so become matrices of their own
    n_texts: int  # of the vocabulary: tokens and merges
    family: str  # of an encoder; "": it is a decoder

    @property
    def causal(self) -> bool:
        return self.arch != ENCODER

    @property
    def q_dim(self) -> int:
        return self.n_head * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.n_head_kv * self.head_dim

    @property
    def layer_ff(self) -> int:
        """The width between a layer's up and down projections."""
        return self.linears["blk.0.ffn_down.weight"][1]

    @property
    def tied(self) -> bool:
        return OUTPUT not in self.shapes

    @cached_property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(n, k) by GGUF name, in the layers' order, with the embedding and the output, also where these are one; of an
        encoder with BERT's pooler, which adapters are for, too."""
        layers = {n: s for n, s in self.shapes.items() if n.startswith("blk.") and len(s) == 2 and "norm" not in n}
        found = {name: (shape[0], shape[1]) for name, shape in layers.items()}
        n_vocab, n_embd = self.shapes[EMBEDDING]
        found[EMBEDDING] = (n_vocab, n_embd)
        if self.causal:
            found[OUTPUT] = (n_vocab, n_embd)
        elif POOLER in self.shapes and self.family != "roberta":
            found[POOLER] = (n_embd, n_embd)
        return found

    def layer(self, i: int = 0) -> dict[str, tuple[int, int]]:
        """A layer's linears by their stems, such as "attn_q"."""
        start = f"blk.{i}."
        names = [name for name in self.linears if name.startswith(start)]
        return {name.removeprefix(start).removesuffix(".weight"): self.linears[name] for name in names}

    @property
    def n_weights(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def n_small(self) -> int:
        """Of what is no linear: norms, biases, learned positions."""
        return self.n_weights - sum(math.prod(s) for n, s in self.linears.items() if n in self.shapes)

    @property
    def file_bytes(self) -> int:
        """Of the tensors, whose pages a run touches."""
        return sum(self.sizes.values())


def read_header(path: str | os.PathLike[str]) -> Header:
    """ValueError: the file is damaged, or no model; OSError: it can't be opened."""
    file, name = open_gguf(path), os.fspath(path)
    meta, tensors = file.metadata, file.core.tensors()
    arch = str(meta.get("general.architecture", ""))
    if arch not in _ARCHITECTURES or meta.get("general.type") == "adapter":
        raise ValueError(f"[plan] '{name}' is no model ({arch or 'no architecture'}): its memory is not known")
    for needed in (EMBEDDING, "blk.0.ffn_up.weight", "blk.0.ffn_down.weight"):
        if needed not in tensors or len(tensors[needed][0]) != 2:
            raise ValueError(f"[plan] '{name}' has no matrix {needed!r}")
    queries = next((q for q in ("blk.0.attn_q.weight", "blk.0.attn_qkv.weight") if q in tensors), EMBEDDING)

    def number(key: str, default: int = 0) -> int:
        value = meta.get(f"{arch}.{key}", default)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"[plan] '{name}' says {value!r} for {arch}.{key}, not a whole number from 1 up")
        return value

    n_head, n_embd = number("attention.head_count"), number("embedding_length")
    return Header(
        path=name,
        arch=arch,
        shapes={tensor: tuple(shape) for tensor, (shape, _, _) in tensors.items()},
        sizes={tensor: size for tensor, (_, _, size) in tensors.items()},
        f32=tensors[queries][1] == "F32",
        n_layer=number("block_count"),
        n_embd=n_embd,
        n_head=n_head,
        head_dim=number("attention.key_length", n_embd // n_head),
        n_head_kv=number("attention.head_count_kv", n_head),
        n_ctx=number("context_length"),
        n_vocab=int(tensors[EMBEDDING][0][0]),
        capped=arch == "gemma2" or f"{arch}.attn_logit_softcapping" in meta,
        n_texts=_count(meta, "tokens") + _count(meta, "merges"),
        family=family_of(meta) if arch == ENCODER else "",
    )


def _count(meta: Mapping[str, Any], what: str) -> int:
    texts = meta.get(f"tokenizer.ggml.{what}")
    return len(texts) if isinstance(texts, list) else 0
