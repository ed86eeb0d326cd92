"""What training needs, part by part, in bytes: the sizes of what `train.network` and the trainer keep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ..train.settings import EIGHT_BITS, Settings
from ..train.targets import targets_of
from .header import Header
from .inference import SCRATCH, TEXT
from .process import imports

F32 = 4
LOGITS_BYTES = 32 << 20  # of a piece of the output layer's results, as in train.network
ADAPTERS = ("lora", "rslora", "lora+", "dora", "adalora")
# What the first step takes beyond the imports, measured (docs/train.md): pages of torch's code, threads' stacks, its
# matrix library's buffers.
FIRST_STEP = 60_000_000
BITSANDBYTES = 115_000_000  # of its imports, torch's compiler among them, measured
PIECE = 1 << 22  # weights that its step widens at a time, as in train.eight_bits
# Blocks that were freed and lie too scattered to be used again: a share of what a step allocates and frees.
SCATTERED = 0.15


class Layer(NamedTuple):
    """Floats per token of one layer: kept for the gradient, and held for a moment more on the way back."""

    kept: int
    passing: int


@dataclass(frozen=True)
class Learned:
    """Floats that train, by tensor; and the ranks of adapters."""

    sizes: dict[str, int]
    ranks: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.sizes.values())


def learned(header: Header, settings: Settings) -> Learned:
    """ValueError: a target is no module of the model."""
    if settings.method not in ADAPTERS:
        sizes = {name: math.prod(shape) for name, shape in header.shapes.items()}
        return Learned(sizes, {})
    rank = settings.rank
    if settings.method == "adalora":
        rank = int(settings.option("init_r", max(rank + 1, rank * 3 // 2)))
    chosen = targets_of(header.linears, header.arch, settings.targets, header.family)
    sizes = {name: rank * sum(header.linears[name]) for name in chosen}
    if settings.method == "dora":
        sizes = {name: size + header.linears[name][0] for name, size in sizes.items()}
    return Learned(sizes, dict.fromkeys(chosen, rank))


def layer_floats(header: Header, settings: Settings, ranks: dict[str, int], i: int = 0) -> Layer:
    """What autograd keeps of layer i per token."""
    d, q, kv, ff = header.n_embd, header.q_dim, header.kv_dim, header.layer_ff
    linears = header.layer(i)
    full = settings.method not in ADAPTERS
    adapted = {stem: ranks[name] for stem in linears if (name := f"blk.{i}.{stem}.weight") in ranks}

    def inputs(width: int, *stems: str) -> int:
        """The input of linears that share it, where a gradient of their weights or factors wants it."""
        return width if full or any(stem in adapted for stem in stems) else 0

    gated = "ffn_gate" in linears or linears["ffn_up"][0] == 2 * ff
    kept = 2 * d  # the residual stream before each norm
    kept += inputs(d, "attn_q", "attn_k", "attn_v", "attn_qkv") + inputs(d, "ffn_gate", "ffn_up")
    kept += 2 * q + 2 * kv + header.n_head  # rotated queries and keys, values; attention's result, its sums
    kept += (2 * ff if gated else ff) + inputs(ff, "ffn_down")
    kept += sum(d for stem in ("post_attention_norm", "post_ffw_norm") if f"blk.{i}.{stem}.weight" in header.shapes)
    kept += q + kv if f"blk.{i}.attn_q_norm.weight" in header.shapes else 0
    kept += sum(adapted.values())
    if settings.method == "dora":
        kept += sum(linears[stem][0] for stem in adapted)
    if settings.dropout:
        kept += sum(2 * linears[stem][1] for stem in adapted)
    return Layer(kept, 3 * ff + 2 * d)


def training_parts(
    header: Header, settings: Settings, length: int, *, threads: int = 1, base: int | None = None
) -> dict[str, int]:
    """Of steps on rows of `length` tokens; a batch is made in `accumulate` parts. Peaks that come at different moments
    are not added: activations are gone when the last gradients are there."""
    if base is None:
        base = imports("training")[0] + TEXT * header.n_texts
    rows = settings.batch_size // settings.accumulate
    tokens = rows * length
    what = learned(header, settings)
    weights = F32 * what.total
    layers = [layer_floats(header, settings, what.ranks, i) for i in range(header.n_layer)]
    scores = _score_bytes(header, settings, rows, length)
    kept = [F32 * tokens * layer.kept + scores for layer in layers]
    passing = F32 * tokens * max(layer.passing for layer in layers) + scores
    edges = F32 * tokens * header.n_embd
    if settings.checkpointing:
        activations, passing = edges * header.n_layer + max(kept), passing + edges
    else:
        activations = sum(kept)
    piece = max(8, LOGITS_BYTES // (F32 * header.n_vocab))
    head = not header.causal or settings.option("classify", "") == "head"  # few labels, and one token of each text
    logits = 0 if head else F32 * header.n_vocab * min(piece, tokens) + 4 * edges
    # The embedding's gradient is made as a whole each time before it is added.
    table = 0 if what.ranks else F32 * header.n_vocab * header.n_embd
    at_once = max(logits + table, passing, table)
    # Gradients grow while activations shrink, unless an earlier part of the batch has left its own.
    gradients = weights
    if settings.accumulate == 1:
        gradients = max(0, weights - activations)
    in_pieces = BITSANDBYTES + 5 * F32 * min(PIECE, max(what.sizes.values()))
    states = {"adamw": 2 * weights, EIGHT_BITS: weights // 2 + in_pieces, "sgd": 0}[settings.optimizer]
    moving = activations + at_once
    return {
        "base": base + FIRST_STEP + SCRATCH * threads,
        "weights": header.file_bytes,
        "adapters" if what.ranks else "float_weights": weights + F32 * header.n_small * bool(what.ranks),
        "gradients": gradients,
        "optimizer": states,
        "activations": activations,
        "logits": at_once,
        "scattered": int(SCATTERED * moving),
    }


def _score_bytes(header: Header, settings: Settings, rows: int, length: int) -> int:
    """Matrices [length, length] of a layer: scores that are capped, and the mask of packed or padded rows."""
    capped = 2 * F32 * header.n_head if header.capped else 0
    packed = F32 + 1 if settings.pack or not header.causal else 0
    return rows * length * length * (capped + packed)
