"""DoRA (Liu et al. 2024): y = m ∘ (W·x + s·B(A·x)) / ‖W + s·BA‖ per output, the norm a constant to the gradient, m
beginning as ‖W‖; parametrised as PEFT does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...adapter_file import AdapterFile, LoraEntry
from ...gguf_file import open_gguf
from ...quant import to_f32
from ..network import Network
from ..settings import Settings
from .lora import EMBEDDING, Factors, Lora, array

CHUNK = 1 << 20  # weights dequantised at a time


class DoraFactors(Factors):
    """With magnitude [n]. ‖W + s·BA‖² = ‖W‖² + 2s⟨W, BA⟩ + s²‖BA‖² by row: W is read some rows at a time, as the file
    has it."""

    def __init__(self, base: Factors, path: str, tensor: str) -> None:
        super().__init__(base.linear, base.a, base.b, base.scale, base.dropout)
        self._path, self._tensor = path, tensor
        self.squares = self._by_rows(lambda w: w.square().sum(dim=1))
        self.magnitude = self.norm().requires_grad_(True)

    def _by_rows(self, make: Callable[[Tensor], Tensor]) -> Tensor:
        tensor = open_gguf(self._path).tensors[self._tensor]
        step = max(1, CHUNK // self.linear.k)
        parts = [make(torch.from_numpy(np.array(to_f32(tensor[i : i + step])))) for i in range(0, self.linear.n, step)]
        return torch.cat(parts)

    def norm(self) -> Tensor:
        """‖W + s·BA‖ [n]."""
        with torch.no_grad():
            wa = self._by_rows(lambda w: w @ self.a.T)  # [n, r]
            cross = (wa * self.b).sum(dim=1)
            own = (self.b @ (self.a @ self.a.T) * self.b).sum(dim=1)
            return (self.squares + 2 * self.scale * cross + self.scale**2 * own).clamp_min(0).sqrt()

    def plain(self) -> None:
        return None

    def parameters(self) -> dict[str, Tensor]:
        return {**super().parameters(), "lora_magnitude_vector": self.magnitude}

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (y + self.low_rank(x)) * (self.magnitude / self.norm())

    def entry(self) -> LoraEntry:
        return LoraEntry(array(self.a), array(self.b), self.scale, array(self.magnitude))


class Dora(Lora):
    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__(network, settings)
        for name, factors in self.factors.items():
            if name == EMBEDDING:
                raise ValueError(
                    "[train] dora of the embedding is not supported: leave embed_tokens out of the targets"
                )
            stored = EMBEDDING if name == "output.weight" and network.tied else name
            self.factors[name] = DoraFactors(factors, network.model.path, stored)
            updates = network.linears[name].updates
            updates[updates.index(factors)] = self.factors[name]

    def begin_with(self, adapter: AdapterFile) -> None:
        """A plain adapter gets the magnitudes that leave it what it is."""
        plain = {name: replace(entry, magnitude=None) for name, entry in adapter.entries.items()}
        super().begin_with(replace(adapter, entries=plain))
        for name, entry in adapter.entries.items():
            factors = self.factors[name]
            assert isinstance(factors, DoraFactors)
            with torch.no_grad():
                if entry.magnitude is None:
                    factors.magnitude.copy_(factors.norm())
                else:
                    factors.magnitude.copy_(torch.from_numpy(np.array(entry.magnitude, np.float32)))
