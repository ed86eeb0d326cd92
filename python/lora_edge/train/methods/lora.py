"""LoRA (Hu et al. 2021) and rsLoRA (Kalajdzievski 2023), parametrised and initialised as PEFT does it:
y += s·B(A·dropout(x)), A from kaiming_uniform(a=√5), B zeros; s = alpha / r, or alpha / √r."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...adapter_file import AdapterFile, BaseInfo, LoraEntry, Whole, read_adapter
from ...gguf_file import open_gguf
from ...quant import to_f32
from ..method import Method
from ..network import Linear, Network
from ..settings import Settings
from ..targets import targets

EMBEDDING = "token_embd.weight"


class Factors:
    """One linear's adapter: a [r, k], b [n, r]; the embedding's a [r, n_vocab], b [n_embd, r]."""

    def __init__(self, linear: Linear, a: Tensor, b: Tensor, scale: float, dropout: float = 0.0) -> None:
        self.linear, self.a, self.b, self.scale, self.dropout = linear, a, b, scale, dropout

    def parameters(self) -> dict[str, Tensor]:
        return {"lora_A": self.a, "lora_B": self.b}

    def plain(self) -> tuple[Tensor, Tensor, float] | None:
        return None if self.dropout else (self.a, self.b, self.scale)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if self.linear.name == EMBEDDING:
            return y + self.scale * (F.embedding(x, self.a.T) @ self.b.T)
        return y + self.low_rank(x)

    def low_rank(self, x: Tensor) -> Tensor:
        """s·B(A·x)."""
        if self.dropout and self.a.requires_grad and torch.is_grad_enabled():
            x = F.dropout(x, self.dropout)
        return self.scale * F.linear(F.linear(x, self.a), self.b)

    def entry(self) -> LoraEntry:
        a = self.a.T if self.linear.name == EMBEDDING else self.a
        return LoraEntry(array(a), array(self.b), self.scale)


def values_of(tensor: str, entry: LoraEntry) -> tuple[Tensor, Tensor]:
    """The entry's A and B in float32, as Factors has them."""
    a, b = (torch.from_numpy(to_f32(x)) for x in (entry.a, entry.b))
    return a.T.contiguous() if tensor == EMBEDDING else a, b


def array(x: Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.detach().numpy())


class Lora(Method):
    heads = True

    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__(network, settings)
        generator = torch.Generator().manual_seed(settings.seed)
        self.factors: dict[str, Factors] = {}
        for name in targets(network, settings.targets):
            linear = network.linears[name]
            self.factors[name] = self.make(linear, settings.rank, generator)
            linear.updates.append(self.factors[name])
        self.whole: dict[str, Tensor] = {}  # weights and biases of the head's layers that PEFT saves
        if network.head is not None:
            network.head.check_base()
            self.whole = {name: x.requires_grad_(True) for name, x in network.head.tensors().items()}

    def scale(self, rank: int) -> float:
        return self.settings.alpha / rank

    def make(self, linear: Linear, rank: int, generator: torch.Generator) -> Factors:
        n, k = (linear.k, linear.n) if linear.name == EMBEDDING else (linear.n, linear.k)
        a, b = torch.zeros(rank, k), torch.zeros(n, rank)
        if linear.name == EMBEDDING:  # there PEFT has A zero and B random
            b.normal_(generator=generator)
        else:
            bound = 1 / math.sqrt(k)  # kaiming_uniform(a=√5)
            a.uniform_(-bound, bound, generator=generator)
        return Factors(linear, a.requires_grad_(True), b.requires_grad_(True), self.scale(rank), self.settings.dropout)

    def parameters(self) -> dict[str, Tensor]:
        factors = {f"{name}.{key}": x for name, f in self.factors.items() for key, x in f.parameters().items()}
        return factors | self.whole

    def begin_with(self, adapter: AdapterFile) -> None:
        """Takes the values of an adapter of the same modules, ranks and labels. ValueError: it is another."""
        beyond = (replace(adapter, wholes={}) if self.whole else adapter).beyond_factors
        whole = {name for name in self.whole if name.endswith("weight")}
        labels = [] if self.network.head is None else list(self.network.head.labels)
        other = sorted({*adapter.entries, *adapter.wholes} ^ {*self.factors, *whole})
        if not beyond and not other and adapter.labels not in ([], labels):
            beyond = f"other labels ({', '.join(adapter.labels)[:80]})"
        if beyond or other:
            raise ValueError(
                f"[train] {adapter.name} can't be trained further by {self.settings.method}: it has "
                f"{beyond or ('other modules, such as ' + other[0])}"
            )
        for name, entry in adapter.entries.items():
            self.set_entry(name, entry)
        for name, given in adapter.wholes.items():
            self.set_whole(name, given)

    def set_whole(self, name: str, given: Whole) -> None:
        weight, bias = self.whole[name], self.whole.get(name.removesuffix("weight") + "bias")
        if given.weight.shape != weight.shape:
            raise ValueError(f"[train] {name} is {given.weight.shape} in the adapter to begin with, not {weight.shape}")
        with torch.no_grad():
            weight.copy_(torch.from_numpy(to_f32(given.weight)))
            if given.bias is not None and bias is not None:
                bias.copy_(torch.from_numpy(np.array(given.bias, np.float32)))

    def set_entry(self, name: str, entry: LoraEntry) -> None:
        factors = self.factors[name]
        a, b = values_of(name, entry)
        if a.shape != factors.a.shape or not math.isclose(entry.scale, factors.scale, rel_tol=1e-6):
            raise ValueError(
                f"[train] {name} has rank {entry.b.shape[1]} and scale {entry.scale:g} in the adapter to begin with, "
                f"not {factors.b.shape[1]} and {factors.scale:g}: give its rank and alpha"
            )
        with torch.no_grad():
            factors.a.copy_(a)
            factors.b.copy_(b)

    def adapter(self) -> AdapterFile:
        biases = {name.removesuffix("bias") + "weight": array(x) for name, x in self.whole.items() if x.dim() == 1}
        wholes = {name: Whole(array(x), biases.get(name)) for name, x in self.whole.items() if x.dim() == 2}
        labels = [] if self.network.head is None else list(self.network.head.labels)
        entries = {name: f.entry() for name, f in self.factors.items()}
        return AdapterFile("adapter", "gguf", entries, {}, wholes=wholes, labels=labels)


class RsLora(Lora):
    def scale(self, rank: int) -> float:
        return self.settings.alpha / math.sqrt(rank)


def add_frozen(network: Network, adapters: Mapping[str, float]) -> None:
    """Puts adapters (paths with their weights) under what will be trained. ValueError: one is not for this base, or
    holds more than factors."""
    info = BaseInfo.from_gguf(open_gguf(network.model.path))
    for path, weight in adapters.items():
        file = read_adapter(path, info.arch, info)
        if file.beyond_factors:
            raise ValueError(f"[train] {path} can't lie under a trained adapter: it has {file.beyond_factors}")
        for name, entry in file.entries.items():
            linear = network.linears[name]
            linear.updates.append(Factors(linear, *values_of(name, entry), entry.scale * weight))
