"""Rotary embeddings: from config.json to what GGUF says about them, and back.

GGUF has no words for llama3's rule; it stores the divisors of the frequencies that follow from it.  On the way back
the rule is found again, if it has the usual round numbers; otherwise the divisors themselves become transformers'
"longrope", which is the same up to the rounding of the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architectures import Architecture
from .fields import Fields

Factors = NDArray[np.float32]


@dataclass(frozen=True)
class Rope:
    """dims: of a head, that are rotated.  factors: tensor -> divisors of the frequencies [dims / 2].  linear: factor of
    linear scaling.  local_theta: of layers with a sliding window, where they have another.  old_ctx: context before a
    longrope extension, and attn_factor what it multiplies cosines and sines by."""

    theta: float
    dims: int
    linear: float | None = None
    factors: dict[str, Factors] = field(default_factory=dict)
    local_theta: float | None = None
    old_ctx: int | None = None
    attn_factor: float | None = None


def read_rope(config: Fields, architecture: Architecture, head_dim: int, n_ctx: int) -> Rope | None:
    """From a configuration of either layout (rope_theta and rope_scaling, or rope_parameters); None for an architecture
    without rotary embeddings.  ValueError names what is not supported."""
    if not architecture.ropes:
        return None
    table = config.table("rope_scaling") or config.table("rope_parameters")
    local_theta = None
    if architecture.gguf == "gemma3":
        local_theta = config.number("rope_local_base_freq", 10_000.0)
        if "full_attention" in table or "sliding_attention" in table:
            both = Fields(table, f"{config.where}: rope_parameters")
            local = Fields({"rope_theta": local_theta, **both.table("sliding_attention")}, both.where)
            if local.fields.get("rope_type", "default") != "default":
                local.fail("rope_type", "not supported in layers with a sliding window")
            local_theta, table = local.number("rope_theta"), both.table("full_attention")
    outer = {name: config.fields.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    old = config.fields.get("original_max_position_embeddings") or n_ctx
    rope = Fields({**outer, "original_max_position_embeddings": old, **table}, f"{config.where}: rope")
    share = rope.number("partial_rotary_factor", 1.0)
    if share != 1.0 and not architecture.partial_rotary:
        rope.fail("partial_rotary_factor", f"not supported in {architecture.gguf}")
    dims = int(head_dim * share)
    if dims % 2 or not 0 < dims <= head_dim:
        rope.fail(
            "partial_rotary_factor", f"{dims} of {head_dim} dimensions of a head, which cannot be rotated in pairs"
        )
    theta = rope.number("rope_theta", 10_000.0)
    kind = table.get("rope_type", table.get("type", "default"))
    kind = "longrope" if kind in ("su", "yarn") and architecture.gguf == "phi3" else kind  # as transformers reads it
    if kind not in architecture.ropes:
        known = ", ".join(architecture.ropes)
        raise ValueError(f"[convert] {rope.where}: rope_type {str(kind)[:40]!r} is not supported; {known} are")
    if kind == "linear":
        return Rope(theta, dims, rope.number("factor"), local_theta=local_theta)
    if kind == "llama3":
        factor, low, high = (rope.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
        if not low < high:
            rope.fail("low_freq_factor", "not below high_freq_factor")
        if not factor > 0:
            rope.fail("factor", "not above 0")
        divisors = llama3_divisors(theta, dims, factor, low, high, rope.count("original_max_position_embeddings"))
        return Rope(theta, dims, factors={"rope_freqs.weight": divisors})
    old_ctx = rope.count("original_max_position_embeddings") if architecture.gguf == "phi3" else None
    if kind == "longrope":
        return _longrope(rope, theta, dims, n_ctx)
    return Rope(theta, dims, local_theta=local_theta, old_ctx=old_ctx)


def _longrope(rope: Fields, theta: float, dims: int, n_ctx: int) -> Rope:
    old = rope.count("original_max_position_embeddings")
    longer = max(n_ctx / old, 1.0)
    attention = math.sqrt(1 + math.log(longer) / math.log(old)) if longer > 1 else 1.0
    factors = {
        f"rope_factors_{name}.weight": np.array(rope.numbers(f"{name}_factor", dims // 2), np.float32)
        for name in ("long", "short")
    }
    return Rope(theta, dims, factors=factors, old_ctx=old, attn_factor=rope.number("attention_factor", attention))


def llama3_divisors(theta: float, dims: int, factor: float, low: float, high: float, old_ctx: int) -> Factors:
    """[dims / 2]: what Llama 3.1's rule divides each pair's frequency by."""
    turns = old_ctx / (2 * math.pi * theta ** (np.arange(0, dims, 2) / dims))  # of each pair in the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    divisors: Factors = (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
    return divisors


def rope_config(rope: Rope, architecture: Architecture, head_dim: int, n_ctx: int) -> dict[str, Any]:
    """The fields of config.json that say `rope`, in the layout that transformers 4 and 5 read."""
    fields: dict[str, Any] = {"rope_theta": rope.theta}
    if architecture.partial_rotary:
        fields["partial_rotary_factor"] = _share(rope.dims, head_dim)
    if rope.local_theta is not None:
        fields["rope_local_base_freq"] = rope.local_theta
    if architecture.gguf == "phi3" and rope.old_ctx is not None:
        fields["original_max_position_embeddings"] = rope.old_ctx
    if rope.linear is not None:
        fields["rope_scaling"] = {"rope_type": "linear", "factor": rope.linear}
    elif "rope_freqs.weight" in rope.factors:
        fields["rope_scaling"] = _rule(rope, n_ctx)
    elif rope.factors:
        named = {name: [_short(f) for f in rope.factors[f"rope_factors_{name}.weight"]] for name in ("long", "short")}
        fields["rope_scaling"] = {
            "rope_type": "longrope", "long_factor": named["long"], "short_factor": named["short"],
            "attention_factor": rope.attn_factor,
        }  # fmt: skip
    return fields


def _rule(rope: Rope, n_ctx: int) -> dict[str, Any]:
    divisors = rope.factors["rope_freqs.weight"]
    for factor, low, high, old in _candidates(divisors, n_ctx):
        if np.array_equal(llama3_divisors(rope.theta, rope.dims, factor, low, high, old), divisors):
            return {"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                    "original_max_position_embeddings": old}  # fmt: skip
    factors = [_short(f) for f in divisors]
    return {"rope_type": "longrope", "long_factor": factors, "short_factor": factors, "attention_factor": 1.0,
            "factor": 1.0, "original_max_position_embeddings": n_ctx}  # fmt: skip


def _candidates(divisors: Factors, n_ctx: int) -> Iterator[tuple[float, float, float, int]]:
    """Only ratios count, so low may be 1; the largest divisor is the factor where a frequency is low enough."""
    largest = _short(divisors.max())
    contexts = [8192, n_ctx, *(1 << k for k in range(5, 21))]
    for factor in dict.fromkeys([largest, float(round(largest)), 8.0, 32.0]):
        for high in (4.0, 2.0, 8.0, 16.0, 3.0):
            yield from ((factor, 1.0, high, old) for old in contexts if factor >= largest)


def _share(dims: int, head_dim: int) -> float:
    """The fraction from which transformers, rounding down, gets `dims` again."""
    share = dims / head_dim
    return share if int(head_dim * share) == dims else math.nextafter(share, 2.0)


def _short(x: np.float32) -> float:
    """The shortest decimal that is this float32."""
    return float(str(np.float32(x)))
