"""Names and layouts that differ between Hugging Face models and GGUF files.

Module `model.layers.3.self_attn.q_proj` is tensor `blk.3.attn_q.weight`.  GGUF stores the rows of q and k
of some architectures, "llama" (Llama, Mistral) among them, permuted: Hugging Face rotates the pair (i, i + d/2) of a
head, GGUF's "llama" the pair (2i, 2i + 1).  The others keep Hugging Face's order.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from .architectures import TABLE, Architecture
from .encoder_names import ENCODER, LABELS, encoder_stem

PERMUTED = frozenset(row.gguf for row in TABLE if any(weight.change == "permute" for weight in row.layer))

SCORE = "score"  # the layer to the labels of a decoder's classifier
_LAYER = re.compile(r"(?:model\.layers|transformer\.h)\.(0|[1-9][0-9]{0,4})\.([a-z0-9_.]+)")


def _outer(row: Architecture) -> dict[str, str]:
    return {w.module if w.module == "lm_head" else f"{row.prefix}.{w.module}": w.stem for w in row.outer}


# Module inside a decoder layer -> its stem inside "blk.N."; where architectures differ, as llama has it.
LAYER_MODULES = {w.module: w.stem for row in reversed(TABLE) for w in row.layer}
OUTER_MODULES = {module: stem for row in reversed(TABLE) for module, stem in _outer(row).items()}


def gguf_stem(module: str, arch: str | None = None) -> str | None:
    """GGUF tensor name, without ".weight" / ".bias", of a Hugging Face module of `arch`; None if there is none.

    Without `arch`, of any architecture: linears have the same names in all that have them, norms have not.
    """
    rows = [row for row in TABLE if arch is None or row.gguf == arch]
    found = _LAYER.fullmatch(module)
    for row in rows:
        inner = {w.module: w.stem for w in row.layer}
        if found is None and module in _outer(row):
            return _outer(row)[module]
        if found is not None and found.group(2) in inner:
            return f"blk.{found.group(1)}.{inner[found.group(2)]}"
    if module == SCORE and arch != ENCODER:
        return LABELS.removesuffix(".weight")
    return encoder_stem(module) if arch in (None, ENCODER) else None


def hf_module(stem: str, arch: str) -> str | None:
    """The inverse of `gguf_stem`, of a decoder: the module of a GGUF tensor's stem; None if there is none."""
    layer = re.fullmatch(r"blk\.([0-9]+)\.(.+)", stem)
    if f"{stem}.weight" == LABELS:
        return SCORE
    for row in TABLE:
        if row.gguf != arch:
            continue
        if layer is None:
            return next((module for module, outer in _outer(row).items() if outer == stem), None)
        inner = next((w.module for w in row.layer if w.stem == layer.group(2)), None)
        return inner and f"{row.prefix}.{row.layers}.{layer.group(1)}.{inner}"
    return None


def is_permuted(arch: str, stem: str) -> bool:
    """Whether the rows of this tensor are stored permuted (see `permute_rows`)."""
    return arch in PERMUTED and stem.endswith((".attn_q", ".attn_k"))


def permute_rows(rows: NDArray[np.generic], n_head: int) -> NDArray[np.generic]:
    """Hugging Face's row order of q or k -> GGUF's "llama" order.

    rows [n_head * head_dim, ...]: within a head, row i of the first half and row i of the second become
    rows 2i and 2i + 1.  For k, n_head is the number of KV heads.  ValueError: the rows don't divide into
    heads of even size.
    """
    return _reorder(rows, n_head, (2, -1))


def unpermute_rows(rows: NDArray[np.generic], n_head: int) -> NDArray[np.generic]:
    """The inverse of `permute_rows`."""
    return _reorder(rows, n_head, (-1, 2))


def _reorder(rows: NDArray[np.generic], n_head: int, pairs: tuple[int, int]) -> NDArray[np.generic]:
    if n_head <= 0 or rows.shape[0] % (2 * n_head):
        raise ValueError(f"[names] {rows.shape[0]} rows cannot be divided into {n_head} heads of an even size")
    split = rows.reshape(n_head, *pairs, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)
