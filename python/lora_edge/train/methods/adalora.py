"""AdaLoRA (Zhang et al. 2023): y += s·B(E ∘ A·x) / (r + 1e-5), where PEFT's own allocator decides which rows of E live.

What is written is plain LoRA: of each module, the rows that are left, with E in A.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...adapter_file import AdapterFile, LoraEntry
from ..network import Linear, Network
from ..settings import Settings
from .lora import EMBEDDING, Factors, Lora, array

ADAPTER = "default"  # PEFT's name of it


class AdaFactors(Factors):
    """a [r, k], e [r, 1], b [n, r]."""

    def __init__(self, base: Factors, e: Tensor, rank: int) -> None:
        super().__init__(base.linear, base.a, base.b, base.scale, base.dropout)
        self.e, self.rank = e, rank

    def plain(self) -> None:
        return None

    def parameters(self) -> dict[str, Tensor]:
        return {"lora_A": self.a, "lora_B": self.b, "lora_E": self.e}

    def low_rank(self, x: Tensor) -> Tensor:
        if self.dropout and self.a.requires_grad and torch.is_grad_enabled():
            x = torch.nn.functional.dropout(x, self.dropout)
        return (x @ (self.a * self.e).T @ self.b.T) * (self.scale / (self.rank + 1e-5))

    def entry(self) -> LoraEntry:
        left = (self.e[:, 0] != 0).nonzero()[:, 0]
        left = left if len(left) else torch.zeros(1, dtype=torch.int64)  # a row of zeros stays
        return LoraEntry(array((self.a * self.e)[left]), array(self.b[:, left]), self.scale / (self.rank + 1e-5))


class AdaLora(Lora):
    """Options: init_r (1.5 · rank), tinit, tfinal (steps before and after the ranks shrink), deltaT, beta1, beta2,
    orth_reg_weight: PEFT's. `rank` is what is left on average."""

    options = ("init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight")

    def __init__(self, network: Network, settings: Settings) -> None:
        self.init_r = int(settings.option("init_r", max(settings.rank + 1, settings.rank * 3 // 2)))
        if self.init_r <= settings.rank:
            raise ValueError(f"[train] init_r is {self.init_r}; adalora begins with more than the rank {settings.rank}")
        super().__init__(network, settings)

    def make(self, linear: Linear, rank: int, generator: torch.Generator) -> Factors:
        if linear.name == EMBEDDING:
            raise ValueError("[train] adalora of the embedding is not supported: leave embed_tokens out of the targets")
        made = super().make(linear, self.init_r, generator)
        with torch.no_grad():  # PEFT: e zeros, a and b normal
            made.a.normal_(0, 0.02, generator=generator)
            made.b.normal_(0, 0.02, generator=generator)
        return AdaFactors(made, torch.zeros(self.init_r, 1, requires_grad=True), self.init_r)

    def begin_with(self, adapter: AdapterFile) -> None:
        raise ValueError("[train] adalora can't begin with an adapter: its factors are normed, with E between them")

    def scale(self, rank: int) -> float:
        return self.settings.alpha

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """As PEFT's allocator looks for them."""
        for name, x in self.parameters().items():
            stem, _, key = name.rpartition(".")
            yield f"{stem}.{key}.{ADAPTER}", x

    def start(self, total_steps: int) -> None:
        from peft import AdaLoraConfig
        from peft.tuners.adalora.layer import RankAllocator

        super().start(total_steps)
        option = self.settings.option
        tinit, tfinal = int(option("tinit", total_steps // 10)), int(option("tfinal", total_steps // 2))
        if tinit + tfinal >= total_steps:
            raise ValueError(
                f"[train] adalora has no step left to shrink ranks in: tinit {tinit} + tfinal {tfinal} are not fewer "
                f"than {total_steps} steps"
            )
        config = AdaLoraConfig(
            target_r=self.settings.rank,
            init_r=self.init_r,
            tinit=tinit,
            tfinal=tfinal,
            deltaT=int(option("deltaT", max(1, total_steps // 100))),
            beta1=float(option("beta1", 0.85)),
            beta2=float(option("beta2", 0.85)),
            orth_reg_weight=float(option("orth_reg_weight", 0.5)),
            total_step=total_steps,
            target_modules=["linear"],
        )
        self.config = config
        self.allocator = RankAllocator(self, config, ADAPTER)
        self.pattern: dict[str, list[bool]] | None = None

    def before_update(self, step: int) -> None:
        """Adds the gradient of PEFT's penalty on factors that aren't orthogonal, once a step."""
        penalty = torch.zeros(())
        names = [(n, x) for n, x in self.parameters().items() if n.endswith(("lora_A", "lora_B"))]
        for name, x in names:
            gram = x @ x.T if name.endswith("lora_A") else x.T @ x
            penalty = penalty + torch.linalg.norm(gram - torch.eye(len(gram)))
        weight = self.config.orth_reg_weight / len(names)
        (penalty * weight).backward()
        self.penalty = float(penalty.detach()) * weight

    def after_update(self, step: int) -> None:
        """PEFT's `update_and_allocate`, which counts steps from 0 and masks for good in the last `tfinal`."""
        allocator, final = self.allocator, self.total_steps - self.config.tfinal
        if step < final:
            _, pattern = allocator.update_and_allocate(self, step)
            self.pattern = pattern or self.pattern
        elif step == final:
            _, self.pattern = allocator.update_and_allocate(self, step, force_mask=True)
            allocator.reset_ipt()
        elif self.pattern is not None:
            allocator.mask_using_rank_pattern(self, self.pattern)

    def state(self) -> dict[str, Any]:
        a = self.allocator
        return {"ipt": dict(a.ipt), "avg": dict(a.exp_avg_ipt), "unc": dict(a.exp_avg_unc), "pattern": self.pattern}

    def load_state(self, state: Mapping[str, Any]) -> None:
        a = self.allocator
        a.ipt, a.exp_avg_ipt, a.exp_avg_unc = dict(state["ipt"]), dict(state["avg"]), dict(state["unc"])
        self.pattern = state["pattern"]
