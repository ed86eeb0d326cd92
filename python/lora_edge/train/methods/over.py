"""Methods over methods: one changes the loss or the weights, another says what trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...adapter_file import AdapterFile
from ..loss import Loss
from ..method import Method
from ..network import Network
from ..settings import Settings
from . import method_class

if TYPE_CHECKING:
    from ..data import Batch


class Over(Method):
    """Does nothing itself: everything is `inner`'s. The option `trains` names the method of that, such as "lora"; with
    "qat/lora" it is qat over lora. Where it isn't given, `default` trains."""

    default = "full"

    def __init__(self, network: Network, settings: Settings) -> None:
        super().__init__(network, settings)
        inner = self._under(settings)
        self.inner = method_class(inner.method)(network, inner)
        self.kind, self.file_type = self.inner.kind, self.inner.file_type

    @classmethod
    def _under(cls, settings: Settings) -> Settings:
        """Those of the inner method."""
        word, _, rest = str(settings.option("trains", cls.default)).partition("/")
        if word == settings.method:
            raise ValueError(f"[train] {word} can't be over itself (trains): full and the adapters are what can train")
        options = {name: value for name, value in settings.options if name != "trains"}
        return replace(settings, method=word, options=tuple((options | ({"trains": rest} if rest else {})).items()))

    @classmethod
    def known_options(cls, settings: Settings) -> set[str]:
        inner = cls._under(settings)
        return {*cls.options, "trains"} | method_class(inner.method).known_options(inner)

    @classmethod
    def trained(cls, settings: Settings) -> str:
        inner = cls._under(settings)
        return method_class(inner.method).trained(inner)

    def parameters(self) -> dict[str, Tensor]:
        return self.inner.parameters()

    def groups(self) -> list[dict[str, Any]]:
        return self.inner.groups()

    def start(self, total_steps: int) -> None:
        super().start(total_steps)
        self.inner.start(total_steps)

    def begin_with(self, adapter: AdapterFile) -> None:
        self.inner.begin_with(adapter)

    def units(self, batch: Batch) -> int:
        return self.inner.units(batch)

    def facts(self) -> dict[str, float]:
        return self.inner.facts()

    def learn(self, batch: Batch, scale: float) -> Loss:
        return self.inner.learn(batch, scale)

    def measure(self, batch: Batch) -> Loss:
        return self.inner.measure(batch)

    def before_update(self, step: int) -> None:
        self.inner.before_update(step)

    def after_update(self, step: int) -> None:
        self.inner.after_update(step)

    def state(self) -> dict[str, Any]:
        return {"inner": self.inner.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state(state["inner"])

    def adapter(self) -> AdapterFile:
        return self.inner.adapter()

    def sizes(self) -> dict[str, int]:
        return self.inner.sizes()

    def model_tensors(self) -> dict[str, Tensor]:
        return self.inner.model_tensors()
