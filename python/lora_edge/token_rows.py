"""Trained rows of an embedding (PEFT's trainable_token_indices) as low-rank factors.

Replacing row i of W by w adds e_i (w - W[i])ᵀ: one rank per trained token, with a one-hot factor of no rounding. As
such it runs, merges and converts like any LoRA. A tied output is trained with the embedding, as PEFT does it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .adapter_parts import AdapterFile, BaseInfo, LoraEntry
from .base_copy import WeightSource
from .quant import to_f32

_ONE = np.float16(1)


def with_token_factors(adapter: AdapterFile, base: BaseInfo, weight_of: WeightSource) -> AdapterFile:
    """The same adapter with its token_rows among its entries. ValueError: the base's weights are not at hand."""
    entries = dict(adapter.entries)
    for tensor, trained in adapter.token_rows.items():
        ids, rows = trained.ids, trained.rows
        weight = weight_of(tensor)
        if weight is None:
            raise ValueError(
                f"[adapter] {adapter.name} has trained rows of {tensor}, and the base's own are not at hand: "
                "give the base with its weights"
            )
        delta = to_f32(rows) - to_f32(weight[ids])
        chosen = np.zeros((len(weight), len(ids)), np.float16)
        chosen[ids, np.arange(len(ids))] = _ONE
        lookup = LoraEntry(chosen, np.ascontiguousarray(delta.T), 1.0)
        output = LoraEntry(delta, chosen, 1.0)
        names = ["token_embd.weight", "output.weight"] if base.tied else [tensor]
        for name in names:
            if name in entries or name in adapter.wholes:
                raise ValueError(f"[adapter] {adapter.name}: {name} is adapted, and has trained rows as well")
            entries[name] = lookup if name == "token_embd.weight" else output
    return replace(adapter, entries=entries, token_rows={})
