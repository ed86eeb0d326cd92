"""Names and layouts that differ between Hugging Face models and GGUF files (architectures llama, qwen2,
qwen3).

Module `model.layers.3.self_attn.q_proj` is tensor `blk.3.attn_q.weight`.  GGUF stores the rows of q and k
of architecture "llama" (Llama, Mistral) permuted: Hugging Face rotates the pair (i, i + d/2) of a head,
GGUF's "llama" the pair (2i, 2i + 1).  qwen2 and qwen3 keep Hugging Face's order.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

# Module inside a decoder layer -> its stem inside "blk.N."
LAYER_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTER_MODULES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}

_LAYER = re.compile(r"model\.layers\.(0|[1-9][0-9]{0,4})\.([a-z_.]+)")


def gguf_stem(module: str) -> str | None:
    """GGUF tensor name, without ".weight" / ".bias", of a Hugging Face module; None if there is none."""
    if module in OUTER_MODULES:
        return OUTER_MODULES[module]
    found = _LAYER.fullmatch(module)
    if found is None or found.group(2) not in LAYER_MODULES:
        return None
    return f"blk.{found.group(1)}.{LAYER_MODULES[found.group(2)]}"


def is_permuted(arch: str, stem: str) -> bool:
    """Whether the rows of this tensor are stored permuted (see `permute_rows`)."""
    return arch == "llama" and stem.endswith((".attn_q", ".attn_k"))


def permute_rows(rows: NDArray[np.generic], n_head: int) -> NDArray[np.generic]:
    """Hugging Face's row order of q or k -> GGUF's "llama" order.

    rows [n_head * head_dim, ...]: within a head, row i of the first half and row i of the second become
    rows 2i and 2i + 1.  For k, n_head is the number of KV heads.  ValueError: the rows don't divide into
    heads of even size.
    """
    if n_head <= 0 or rows.shape[0] % (2 * n_head):
        raise ValueError(f"[names] {rows.shape[0]} rows cannot be divided into {n_head} heads of an even size")
    split = rows.reshape(n_head, 2, rows.shape[0] // n_head // 2, *rows.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(rows.shape)
