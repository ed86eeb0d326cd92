"""Heads and feed-forward neurons as rows and columns of matrices: what can be taken from a layer as a whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..network import Network

STRUCTURES = ("heads", "ffn", "structured")
WeightOf = Callable[[str], Tensor]


class Units:
    """kept [layers, units]: which are left. `word`: their structure's."""

    word = ""

    def __init__(self, network: Network, n: int) -> None:
        self.network = network
        self.kept = torch.ones(network.config.n_layer, n, dtype=torch.bool)

    @property
    def sparsity(self) -> float:
        return float((~self.kept).float().mean())

    def prune(self, weight: WeightOf, share: float) -> None:
        """Takes of each layer the units with the smallest norms until `share` is gone, one at least is left."""
        n = min(round(share * self.kept.shape[1]), self.kept.shape[1] - 1)
        for i in range(len(self.kept)):
            score = self.scores(i, weight)
            score[~self.kept[i]] = -1.0
            self.kept[i, torch.topk(score, n, largest=False).indices] = False

    def scores(self, i: int, weight: WeightOf) -> Tensor:
        """Squared norm of each unit's weights in layer i."""
        raise NotImplementedError

    def masks(self) -> dict[str, Tensor]:
        """Of the matrices: rows [n, 1] or columns [1, k]."""
        raise NotImplementedError


class Heads(Units):
    """Query heads: their rows of q and columns of the output; the rows of k and v where no query head uses them."""

    word = "heads"

    def __init__(self, network: Network) -> None:
        super().__init__(network, network.config.n_head)

    def scores(self, i: int, weight: WeightOf) -> Tensor:
        c, p = self.network.config, f"blk.{i}.attn_"
        q = weight(p + ("qkv.weight" if self.network.block["fused_qkv"] else "q.weight"))[: c.n_head * c.head_dim]
        out = weight(p + "output.weight")
        rows, columns = q.square().sum(dim=1), out.square().sum(dim=0)
        return (rows + columns).view(c.n_head, c.head_dim).sum(dim=1)

    def masks(self) -> dict[str, Tensor]:
        c, made = self.network.config, {}
        for i, kept in enumerate(self.kept):
            p = f"blk.{i}.attn_"
            q = kept.float().repeat_interleave(c.head_dim)
            kv = kept.view(c.n_head_kv, -1).any(dim=1).float().repeat_interleave(c.head_dim)
            made[p + "output.weight"] = q[None]
            if self.network.block["fused_qkv"]:
                made[p + "qkv.weight"] = torch.cat([q, kv, kv])[:, None]
            else:
                made |= {f"{p}{x}.weight": rows[:, None] for x, rows in (("q", q), ("k", kv), ("v", kv))}
        return made


class Ffn(Units):
    """Neurons of the feed-forward: their rows of gate and up, and columns of down."""

    word = "ffn"

    def __init__(self, network: Network) -> None:
        super().__init__(network, network.config.n_ff)
        self.stems = ("gate", "up") if network.block["gated"] and not network.block["fused_gate_up"] else ("up",)

    def scores(self, i: int, weight: WeightOf) -> Tensor:
        p = f"blk.{i}.ffn_"
        score = weight(p + "down.weight").square().sum(dim=0)
        for stem in self.stems:  # gate and up may be the halves of one matrix
            score = score + weight(f"{p}{stem}.weight").square().sum(dim=1).view(-1, len(score)).sum(dim=0)
        return score

    def masks(self) -> dict[str, Tensor]:
        made = {}
        twice = 2 if self.network.block["fused_gate_up"] else 1
        for i, kept in enumerate(self.kept):
            p = f"blk.{i}.ffn_"
            made[p + "down.weight"] = kept.float()[None]
            made |= {f"{p}{stem}.weight": kept.float().repeat(twice)[:, None] for stem in self.stems}
        return made

    @property
    def left(self) -> int:
        """Neurons of each layer that are left."""
        return int(self.kept[0].sum())

    def without(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's tensors, of the feed-forward only what is left."""
        out = dict(tensors)
        for i, kept in enumerate(self.kept):
            p = f"blk.{i}.ffn_"
            out[p + "down.weight"] = tensors[p + "down.weight"][:, kept]
            for name in (f"{p}{stem}.{part}" for stem in self.stems for part in ("weight", "bias")):
                if name in tensors:
                    out[name] = tensors[name][kept.repeat(len(tensors[name]) // len(kept))]
        return out
