"""Full fine-tuning: every weight of the file trains, as float32."""

from __future__ import annotations

from torch import Tensor

from ..method import Method
from ..network import Network
from ..settings import Settings


class Full(Method):
    kind = "model"
    heads = True

    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__(network, settings)
        self.weights = network.thaw()

    def parameters(self) -> dict[str, Tensor]:
        return self.weights

    def model_tensors(self) -> dict[str, Tensor]:
        return {name: x.detach() for name, x in self.weights.items()}
