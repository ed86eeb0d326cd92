"""LoRA+ (Hayou et al. 2024): lora_B learns faster than lora_A, by lr_ratio; as PEFT's create_loraplus_optimizer, where
the embedding's factors learn at 1e-6."""

from __future__ import annotations

from typing import Any

from .lora import EMBEDDING, Lora

EMBEDDING_LR = 1e-6


class LoraPlus(Lora):
    def groups(self) -> list[dict[str, Any]]:
        lr = self.settings.lr
        rates = {"lora_A": lr, "lora_B": lr * self.settings.lr_ratio}
        groups: list[dict[str, Any]] = [
            {"params": [f.parameters()[key] for f in self.factors.values() if f.linear.name != EMBEDDING], "lr": rate}
            for key, rate in rates.items()
        ]
        biases = [x for x in self.whole.values() if x.dim() == 1]  # of a head PEFT counts them to what learns faster
        groups[0]["params"] += [x for x in self.whole.values() if x.dim() > 1]
        groups.append({"params": biases, "lr": rates["lora_B"], "weight_decay": 0.0})
        if EMBEDDING in self.factors:
            groups.append({"params": list(self.factors[EMBEDDING].parameters().values()), "lr": EMBEDDING_LR})
        return groups
