"""What rounding and pruning share: weights that are seen through a function, and a model that is written as seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from ..network import Linear, Network
from ..settings import Settings
from .lora import EMBEDDING, Factors, Lora
from .over import Over

Shape = Callable[[Tensor], Tensor]


class Shaped(Over):
    """`shape_of` gives the function through which a linear's weight is used, or None.

    Over an adapter it is the merged weight W + s·BA that is seen, and the result is the merged model: a float32 copy of
    each weight is held then, and A and B alone train."""

    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__(network, settings)
        if self.kind == "adapter":
            merge(network, self.inner)
            self.kind = "model"
        shapes: dict[int, Shape | None] = {}  # by weight: a tied one has one
        for linear in network.linears.values():
            if id(linear.weight) not in shapes:
                shapes[id(linear.weight)] = self.shape_of(linear)
            shape = shapes[id(linear.weight)]
            if shape is not None:
                linear.shape = shape if linear.shape is None else partial(_both, linear.shape, shape)
        self.shapes = list(shapes.values())

    def shape_of(self, linear: Linear) -> Shape | None:
        raise NotImplementedError

    def model_tensors(self) -> dict[str, Tensor]:
        network = self.network
        names = [n for n in network.linears if n != "output.weight" or not network.tied]
        return {n: x.detach() for n, x in network.tensors.items()} | {
            n: network.linears[n].float_weight().detach() for n in names
        }


def _both(first: Shape, second: Shape, w: Tensor) -> Tensor:
    return second(first(w))


def merge(network: Network, method: object) -> None:
    """Makes every weight float32, and the adapter that trains a part of the weights it is for. ValueError: it is more
    than A and B, or for a tied embedding, whose two uses would then differ."""
    if not isinstance(method, Lora):
        raise ValueError("[train] only an adapter can be merged")
    network.widen()
    for name, factors in method.factors.items():
        linear = network.linears[name]
        if type(factors) is not Factors or factors.dropout:
            what = "dropout" if factors.dropout else f"what {method.settings.method} trains"
            raise ValueError(
                f"[train] {what} can't be a part of the weight: use lora, rslora or lora+, without dropout"
            )
        if network.tied and name in (EMBEDDING, "output.weight"):
            raise ValueError(f"[train] {name} is embedding and output in one: leave it out of the targets")
        linear.updates.remove(factors)
        linear.shape = partial(_merged, factors)


def _merged(factors: Factors, w: Tensor) -> Tensor:
    """W + s·BA; of the embedding, W + s·(BA)ᵀ."""
    product = factors.b @ factors.a
    return w + factors.scale * (product.T if factors.linear.name == EMBEDDING else product)
