"""What a run is made of, in numbers and words; a checkpoint holds them, and a resumed run must have the same."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

SCHEDULES = ("linear", "cosine", "constant")
EIGHT_BITS = "adamw_8bit"
OPTIMIZERS = ("adamw", EIGHT_BITS, "sgd")  # the largest states first
DATA_OPTIONS = ("too_long", "classify", "label_prompt", "chat_template")  # options that `load_data` knows


@dataclass(frozen=True)
class Settings:
    """lr: the peak learning rate. steps: of the optimiser; 0: as many as `epochs` make. batch_size: examples a step,
    over all processes; each step is made of `accumulate` parts. rank, alpha: of adapters; dropout of their input.
    targets: modules by Hugging Face's names, or "all-linear". warmup: share of the steps in which lr rises. grad_clip:
    largest norm of the gradient, 0: any. max_length: tokens of an example. pack: several examples a row. mask_prompt:
    only completions are learned. lr_ratio: of lora_B's rate to lora_A's (lora+). options: what one method knows alone.
    """

    method: str = "lora"
    lr: float = 1e-4
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)
    batch_size: int = 8
    accumulate: int = 1
    epochs: float = 3.0
    steps: int = 0
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    schedule: str = "linear"
    warmup: float = 0.03
    grad_clip: float = 1.0
    max_length: int = 512
    pack: bool = False
    mask_prompt: bool = True
    checkpointing: bool = False
    seed: int = 0
    lr_ratio: float = 16.0
    options: tuple[tuple[str, Any], ...] = ()

    def check(self) -> None:
        """ValueError: a value that can't be, by its name."""
        for name in ("lr", "alpha", "dropout", "epochs", "weight_decay", "warmup", "grad_clip", "lr_ratio"):
            if not math.isfinite(getattr(self, name)) or getattr(self, name) < 0:
                raise ValueError(f"[train] {name} is {getattr(self, name)}, not a number from 0 up")
        for name, low in (("rank", 1), ("batch_size", 1), ("accumulate", 1), ("steps", 0), ("max_length", 2)):
            if getattr(self, name) < low:
                raise ValueError(f"[train] {name} is {getattr(self, name)}, not a whole number from {low} up")
        for name, high in (("dropout", 1), ("warmup", 1)):
            if getattr(self, name) >= high:
                raise ValueError(f"[train] {name} is {getattr(self, name)}, not below {high}")
        for name, known in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"[train] {name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        if self.lr == 0:
            raise ValueError("[train] lr is 0: nothing would be learned")
        if self.steps == 0 and self.epochs == 0:
            raise ValueError("[train] neither steps nor epochs say how long to train")
        if self.batch_size % self.accumulate:
            raise ValueError(f"[train] batch_size {self.batch_size} has no {self.accumulate} equal parts (accumulate)")

    def option(self, name: str, default: Any) -> Any:
        return dict(self.options).get(name, default)

    def number(self, name: str, default: float, low: float = 0.0, high: float = math.inf) -> float:
        """The option of that name. ValueError: it is no number from low to high."""
        value = self.option(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            upper = f"to {high:g}" if math.isfinite(high) else "up"
            raise ValueError(f"[train] option {name} is {value!r}, not a number from {low:g} {upper}")
        return value

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "targets": list(self.targets), "options": dict(self.options)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        known = {f.name for f in fields(cls)}
        values = {k: v for k, v in values.items() if k in known}
        values["targets"] = tuple(values.get("targets", ("all-linear",)))
        values["options"] = tuple(sorted(dict(values.get("options", {})).items()))
        return cls(**values)


def rate(step: int, total: int, warmup: float, schedule: str) -> float:
    """What the peak rate is multiplied by in step `step` of `total`, from 0: rising over the warm-up, then falling to 0
    along a line or half a cosine, or staying. As transformers' schedulers of these names."""
    rising = math.ceil(warmup * total)
    if step < rising:
        return step / rising if schedule != "constant" or warmup else 1.0
    if schedule == "constant":
        return 1.0
    left = (total - step) / max(1, total - rising)
    return max(0.0, left) if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * (1 - left)))
