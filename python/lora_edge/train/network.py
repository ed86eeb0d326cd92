"""The runtime's models in torch, driven by the same configuration: hidden states and logits with gradients.

Frozen linears run on the core's kernels, from the mapped file (`kernels.frozen`). What trains is float32 in torch:
adapters' factors (`Linear.updates`), or the weights themselves. Everything is in the layout of the GGUF file.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..encoder_names import HEAD
from ..gguf_file import open_gguf
from ..model import Model
from ..quant import to_f32
from .kernels import frozen, frozen_with_factors, rotate, swiglu
from .lean import again
from .places import Places

if TYPE_CHECKING:
    from .head import Head

HEAD_STEMS = tuple(name.removesuffix(".weight") for name in HEAD)
LOGITS_BYTES = 32 << 20  # of a piece of the output layer's results


class Update(Protocol):
    """What is added to a linear: an adapter."""

    def parameters(self) -> dict[str, Tensor]:
        """By PEFT's names: lora_A [r, k], lora_B [n, r] ..."""

    def plain(self) -> tuple[Tensor, Tensor, float] | None:
        """A, B and s, if all it does is to add s·B(A·x)."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """x [..., k], y = W·x [..., n] -> what takes y's place."""


@dataclass
class Linear:
    """W [n, k] in the file, or as a float32 tensor; bias [n]. The weight passes `shape` before it is used (rounding,
    pruning)."""

    name: str
    n: int
    k: int
    bias: Tensor | None = None
    weight: Tensor | None = None
    shape: Callable[[Tensor], Tensor] | None = None
    updates: list[Update] = field(default_factory=list)

    def float_weight(self) -> Tensor:
        assert self.weight is not None
        return self.weight if self.shape is None else self.shape(self.weight)


class Network:
    """A loaded model as a network to train. `tensors`: norms, biases and learned positions by GGUF name; `linears`: by
    GGUF name, with "token_embd.weight" for the lookup and "output.weight" for the output, also where these are one.
    head: what tells labels apart, if anything is to (`head.add_head`).
    """

    def __init__(self, model: Model, *, checkpointing: bool = False) -> None:
        self.model, self.core, self.config = model, model.core, model.config
        self.block: dict[str, Any] = model.core.block
        self.checkpointing = checkpointing
        file = open_gguf(model.path)
        self.tied = self.config.tied_embeddings
        self.tensors: dict[str, Tensor] = {}
        self.linears: dict[str, Linear] = {}
        self.head: Head | None = None
        shapes = model.core.linear_shapes()
        for name, (n, k) in shapes.items():
            bias = name.removesuffix("weight") + "bias"
            self.linears[name] = Linear(name, n, k)
            if bias in file.tensors:
                self.linears[name].bias = self._keep(file, bias)
        for name in file.tensors:
            of_head = name.rpartition(".")[0] in HEAD_STEMS
            if not (of_head or name in shapes or name.startswith("rope_") or name in self.tensors):
                self._keep(file, name)
        self.ropes = [(torch.from_numpy(np.array(f)), float(m)) for f, m in self.block["ropes"]]

    def _keep(self, file: Any, name: str) -> Tensor:
        self.tensors[name] = torch.from_numpy(np.array(to_f32(file.tensors[name])))
        return self.tensors[name]

    # -- what trains ----------------------------------------------------------------------------------------------

    def thaw(self) -> dict[str, Tensor]:
        """Makes every weight a float32 tensor that trains, and gives them by name: copies of the file's."""
        weights = self.widen() | self.tensors
        for weight in weights.values():
            weight.requires_grad_(True)
        return weights

    def widen(self) -> dict[str, Tensor]:
        """Makes the weight of every linear a float32 tensor, a copy of the file's, and gives them by name."""
        file = open_gguf(self.model.path)
        weights = {}
        for name, linear in self.linears.items():
            if self._stored(name) != name:
                continue
            if name not in HEAD:
                linear.weight = torch.from_numpy(np.array(to_f32(file.tensors[name])))
            assert linear.weight is not None
            weights[name] = linear.weight
        if self.tied:
            self.linears["output.weight"].weight = self.linears["token_embd.weight"].weight
        return weights

    def twin(self) -> Network:
        """The network as it is now, which stays so when this one trains: the same file, its own norms and biases."""
        twin = copy.copy(self)
        twin.tensors = {name: x.detach().clone() for name, x in self.tensors.items()}
        twin.linears = {}
        for name, x in self.linears.items():
            bias = None if x.bias is None else twin.tensors[name.removesuffix("weight") + "bias"]
            twin.linears[name] = replace(x, bias=bias, updates=list(x.updates))
        return twin

    def updates(self) -> Iterator[tuple[str, Update]]:
        for name, linear in self.linears.items():
            for update in linear.updates:
                yield name, update

    # -- forward --------------------------------------------------------------------------------------------------

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        parts: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states, normed [b, t, n_embd] of ids int64 [b, t]. positions [b, t]: 0, 1 … by default.
        segments [b, t]: tokens see those of their own number alone. Padding belongs at the end, where no other token
        sees it; in an encoder it needs a segment of its own. parts [b, t]: the text of a pair that a token is of, for
        encoders; 0 by default."""
        places = self._places(ids, positions, segments)
        x = self._embed(ids, places, parts)
        for i in range(self.config.n_layer):
            if self.checkpointing and torch.is_grad_enabled():
                x = again(partial(self._layer, i, places=places), x)
            else:
                x = self._layer(i, x, places)
        return self._norm(x, "output_norm") if self.config.causal else x

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., n_vocab] of normed hidden states [..., n_embd]."""
        (y,) = self.region(("output.weight",), hidden)
        y = y if self.block["logit_scale"] == 1.0 else y * self.block["logit_scale"]
        cap = self.block["logit_cap"]
        return cap * torch.tanh(y / cap) if cap else y

    def _places(self, ids: Tensor, positions: Tensor | None, segments: Tensor | None) -> Places:
        at = torch.arange(ids.shape[1])[None] if positions is None else positions
        rotations = []
        for frequencies, magnitude in self.ropes:
            angles = (at.to(torch.float32)[..., None, None] * frequencies).double()
            rotations.append((angles.cos().float() * magnitude, angles.sin().float() * magnitude))
        return Places(rotations, at, segments, self.config.causal)

    def _embed(self, ids: Tensor, places: Places, parts: Tensor | None) -> Tensor:
        table = self.linears["token_embd.weight"]
        if table.weight is not None:
            x = F.embedding(ids, table.float_weight())
        else:
            rows = self.core.rows(table.name, ids.reshape(-1).numpy())
            x = torch.from_numpy(rows).view(*ids.shape, -1)
        for update in table.updates:
            x = update(ids, x)
        if self.config.n_parts:
            kinds = self.tensors["token_types.weight"]
            x = x + (kinds[0] if parts is None else F.embedding(parts, kinds))
        if self.block["learned_positions"]:
            x = x + F.embedding(places.positions, self.tensors["position_embd.weight"])
        if "token_embd_norm.weight" in self.tensors:
            x = self._norm(x, "token_embd_norm")
        scale = self.block["embedding_scale"]
        return x if scale == 1.0 else x * scale

    def region(self, names: tuple[str, ...], x: Tensor) -> tuple[Tensor, ...]:
        """W·x + b and the updates of linears that share their input: the one place where they are made."""
        linears = [self.linears[name] for name in names]
        factors = [_plain_factors(linear) for linear in linears]
        if None not in factors:
            stored = tuple(self._stored(name) for name in names)
            updated = frozen_with_factors(self.core, stored, x, [f or None for f in factors])
            return tuple(y if x.bias is None else y + x.bias for y, x in zip(updated, linears))
        still = tuple(self._stored(x.name) for x in linears if x.weight is None)
        made = iter(frozen(self.core, still, x) if still else ())
        ys = []
        for linear in linears:
            y = next(made) if linear.weight is None else F.linear(x, linear.float_weight())
            for update in linear.updates:
                y = update(x, y)
            ys.append(y if linear.bias is None else y + linear.bias)
        return tuple(ys)

    def _stored(self, name: str) -> str:
        return "token_embd.weight" if name == "output.weight" and self.tied else name

    def _layer(self, i: int, x: Tensor, places: Places) -> Tensor:
        b, p = self.block, f"blk.{i}."
        h = self._norm(x, p + "attn_norm") if b["pre_norm"] else x
        y = self._attention(i, h, places)
        if b["post_norm"]:
            y = self._norm(y, p + "post_attention_norm")
        x = x + (y if b["residual_scale"] == 1.0 else y * b["residual_scale"])
        x = self._norm(x, p + "attn_output_norm") if b["sum_norm"] else x
        if not b["parallel"]:
            h = self._norm(x, p + "ffn_norm") if b["pre_norm"] else x
        y = self._ffn(p, h)
        if b["post_norm"]:
            y = self._norm(y, p + "post_ffw_norm")
        x = x + (y if b["residual_scale"] == 1.0 else y * b["residual_scale"])
        return self._norm(x, p + "layer_output_norm") if b["sum_norm"] else x

    def _norm(self, x: Tensor, stem: str) -> Tensor:
        w = self.tensors[f"{stem}.weight"]
        return self._normed(x, w, self.tensors.get(f"{stem}.bias"))

    def _normed(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        """Over the last axis. RMSNorm: Zhang & Sennrich 2019; LayerNorm: Ba et al. 2016."""
        if self.block["norm"] == "rms":
            return F.rms_norm(x, x.shape[-1:], w, self.config.norm_eps)
        return F.layer_norm(x, x.shape[-1:], w, bias, self.config.norm_eps)

    def _attention(self, i: int, h: Tensor, places: Places) -> Tensor:
        c, b, p = self.config, self.block, f"blk.{i}."
        if b["fused_qkv"]:
            (y,) = self.region((p + "attn_qkv.weight",), h)
            kv_dim = c.n_head_kv * c.head_dim
            q, k, v = y.split([c.n_head * c.head_dim, kv_dim, kv_dim], dim=-1)
        else:
            q, k, v = self.region(tuple(f"{p}attn_{x}.weight" for x in "qkv"), h)
        q, k, v = self._heads(q, p + "attn_q_norm"), self._heads(k, p + "attn_k_norm"), self._heads(v, "")
        window, rope = b["layers"][i]
        if rope >= 0:
            cos, sin = places.rotations[rope]
            q, k = (rotate(x, cos, sin, b["rope_interleaved"]) for x in (q, k))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # [b, heads, t, head_dim]
        mask, scale = places.mask(window), b["attention_scale"]
        if b["attention_cap"]:
            y = _capped_attention(q, k, v, mask, scale, b["attention_cap"])
        else:
            shared = c.n_head != c.n_head_kv
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=c.causal and mask is None, scale=scale, enable_gqa=shared
            )
        y = y.transpose(1, 2).reshape(*h.shape[:-1], c.n_head * c.head_dim)
        return self.region((p + "attn_output.weight",), y)[0]

    def _heads(self, x: Tensor, norm: str) -> Tensor:
        """[b, t, heads · head_dim] -> [b, t, heads, head_dim], normed as the configuration says."""
        w = self.tensors.get(f"{norm}.weight")
        if w is not None and self.block["qk_norm"] == "whole":
            x, w = self._normed(x, w), None
        x = x.unflatten(-1, (-1, self.config.head_dim))
        if w is not None and w.dim() == 2:  # a weight for each head
            return self._normed(x, w.new_ones(x.shape[-1])) * w
        return x if w is None else self._normed(x, w)

    def _ffn(self, p: str, h: Tensor) -> Tensor:
        b = self.block
        if b["fused_gate_up"]:
            (y,) = self.region((p + "ffn_up.weight",), h)
            gate, up = y.chunk(2, dim=-1)
        elif b["gated"]:
            gate, up = self.region((p + "ffn_gate.weight", p + "ffn_up.weight"), h)
        else:
            ((gate,), up) = self.region((p + "ffn_up.weight",), h), None
        if b["activation"] == "silu" and up is not None:
            y = swiglu(gate, up)
        else:
            form = "tanh" if b["activation"] == "gelu_tanh" else "none"
            y = F.silu(gate) if b["activation"] == "silu" else F.gelu(gate, approximate=form)
            y = y if up is None else y * up
        return self.region((p + "ffn_down.weight",), y)[0]

    # -- losses ---------------------------------------------------------------------------------------------------

    def piece(self) -> int:
        """Rows whose logits are made at a time."""
        return max(8, LOGITS_BYTES // (4 * self.config.n_vocab))


def _plain_factors(linear: Linear) -> tuple[Tensor, Tensor, float] | tuple[()] | None:
    """Of a frozen linear with one plain adapter (A, B, scale), or with none (); None: it is something else."""
    if linear.weight is not None or len(linear.updates) > 1:
        return None
    return linear.updates[0].plain() if linear.updates else ()


def _capped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, cap: float) -> Tensor:
    """Attention whose scores are cap · tanh(score / cap), as gemma2's."""
    group, t = q.shape[1] // k.shape[1], q.shape[2]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = cap * torch.tanh(q @ k.transpose(-1, -2) * (scale / cap))
    seen = torch.ones(t, t, dtype=torch.bool).tril() if mask is None else mask
    return torch.softmax(scores.masked_fill(~seen, -math.inf), dim=-1) @ v
