"""Published starting points for training, with their sources, and what tends to happen far from them.

Presets and ranges are data: names of settings and numbers. A preset fills in what the user did not give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Value = str | int | float | tuple[str, ...]

ALL_LINEAR = "all-linear"  # PEFT's word for every linear but the output layer

DEVLIN = "Devlin et al. 2019, BERT, appendix A.3"
HU = "Hu et al. 2021, LoRA (arXiv:2106.09685), tables 11 and 12"
DETTMERS = "Dettmers et al. 2023, QLoRA (arXiv:2305.14314), appendix B"
BIDERMAN = "Biderman et al. 2024, LoRA Learns Less and Forgets Less (arXiv:2405.09673)"
SCHULMAN = "Schulman et al. 2025, LoRA Without Regret (thinkingmachines.ai/blog/lora)"
LIU = "Liu et al. 2024, ToolACE (arXiv:2409.00920)"
RAFAILOV = "Rafailov et al. 2023, DPO (arXiv:2305.18290), appendix B"
TUNSTALL = "Tunstall et al. 2023, Zephyr (arXiv:2310.16944)"


@dataclass(frozen=True)
class Preset:
    """Settings to begin with, what they are for, and who published them."""

    about: str
    source: str
    values: Mapping[str, Value]


PRESETS: Mapping[str, Preset] = {
    "full": Preset(
        "all weights of a small model, for a task",
        DEVLIN,
        {
            "method": "full", "lr": 2e-5, "batch_size": 32, "epochs": 3, "weight_decay": 0.01, "warmup": 0.1,
            "schedule": "linear", "grad_clip": 1.0,
        },
    ),
    "lora": Preset(
        "an adapter on all linears, the commonest setting",
        f"{LIU}; the batch is between its 48 and the 128 of Hu et al. 2021 for GPT-3",
        {
            "method": "lora", "lr": 1e-4, "rank": 16, "alpha": 32, "targets": (ALL_LINEAR,), "batch_size": 64,
            "epochs": 3, "warmup": 0.1, "schedule": "cosine", "dropout": 0.0, "weight_decay": 0.0, "grad_clip": 1.0,
        },
    ),
    "lora-qv": Preset(
        "the first LoRA: queries and values alone, a small rank, small batches",
        HU,
        {
            "method": "lora", "lr": 2e-4, "rank": 4, "alpha": 32, "targets": ("q_proj", "v_proj"), "batch_size": 8,
            "epochs": 5, "warmup": 0.02, "schedule": "linear", "dropout": 0.1, "weight_decay": 0.01, "grad_clip": 1.0,
        },
    ),
    "qlora": Preset(
        "an adapter on all linears of a quantised base, for instructions",
        DETTMERS,
        {
            "method": "lora", "lr": 2e-4, "rank": 64, "alpha": 16, "targets": (ALL_LINEAR,), "batch_size": 16,
            "epochs": 3, "warmup": 0.03, "schedule": "constant", "dropout": 0.1, "weight_decay": 0.0,
            "grad_clip": 0.3,
        },
    ),
    "lora-high-rank": Preset(
        "much data, or a task far from what the base knows: a rank that does not run out, ten times full tuning's rate",
        f"{SCHULMAN}; rank also {BIDERMAN}",
        {
            "method": "lora", "lr": 2e-4, "rank": 256, "alpha": 32, "targets": (ALL_LINEAR,), "batch_size": 32,
            "epochs": 1, "warmup": 0.0, "schedule": "constant", "dropout": 0.0, "weight_decay": 0.0, "grad_clip": 1.0,
        },
    ),
    "dpo": Preset(
        "an adapter from preferences, after training on answers",
        f"{RAFAILOV} (batches); {TUNSTALL} (rate 5e-7, here ten times that as for every adapter)",
        {
            "method": "dpo", "lr": 5e-6, "rank": 16, "alpha": 32, "targets": (ALL_LINEAR,), "batch_size": 64,
            "epochs": 1, "warmup": 0.1, "schedule": "linear", "dropout": 0.0, "weight_decay": 0.0, "grad_clip": 1.0,
        },
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Range:
    """What is usual for a setting (low to high), from where on it is far outside, and what tends to happen there."""

    low: float
    high: float
    far_below: float
    far_above: float
    below: str
    above: str
    source: str


_UNSTABLE = "the loss tends to jump or diverge, and what the base knew is lost"
_OVERFIT = "it tends to learn the examples by heart: watch the validation loss and keep the best checkpoint"
_FEW_STEPS = "few steps are made per epoch, and it tends to end in a worse place: raise the rate or make more steps"
_NOISY = "gradients are noisy: lower the rate, or accumulate"

_EVERY: Mapping[str, Range] = {
    "dropout": Range(0, 0.1, 0, 0.5, "", "most of the signal is lost, and it tends to underfit", DETTMERS),
    "weight_decay": Range(0, 0.1, 0, 0.5, "", "weights shrink faster than they learn", DEVLIN),
    "warmup": Range(0, 0.1, 0, 0.5, "", "most of the run is spent at rates too low to learn", DEVLIN),
    "grad_clip": Range(
        0.3, 1, 0.01, 1e3, "every step is cut to almost nothing but its direction", "nothing is ever clipped", DETTMERS
    ),
}
_FULL: Mapping[str, Range] = {
    "lr": Range(
        5e-6, 5e-5, 1e-6, 3e-4, "it hardly moves in a few epochs",
        f"{_UNSTABLE} (models of few million weights bear more)", f"{DEVLIN}; {HU}",
    ),
    "batch_size": Range(32, 64, 4, 512, _NOISY, _FEW_STEPS, DEVLIN),
    "epochs": Range(3, 5, 0.1, 20, "most of the data is never seen", _OVERFIT, DEVLIN),
}  # fmt: skip
_ADAPTER: Mapping[str, Range] = {
    "lr": Range(
        3e-5, 5e-4, 1e-5, 2e-3,
        "it hardly moves: an adapter's best rate is about ten times that of full fine-tuning, more in short runs",
        _UNSTABLE, f"{SCHULMAN}; {BIDERMAN}",
    ),
    "rank": Range(
        8, 256, 4, 512, "it tends to run out of room: the loss stops falling where a higher rank's goes on",
        "memory and time go up, and with alpha / rank the update shrinks: rslora is made for that", SCHULMAN,
    ),
    "batch_size": Range(
        8, 128, 4, 512, _NOISY, "adapters bear large batches worse than full fine-tuning, whatever their rank", SCHULMAN
    ),
    "epochs": Range(1, 5, 0.1, 20, "most of the data is never seen", _OVERFIT, HU),
    "alpha / rank": Range(
        0.125, 8, 0.05, 16, "the adapter hardly acts: as if its rate were too low",
        "the adapter acts too strongly: as if its rate were too high", HU,
    ),
}  # fmt: skip
_PREFERENCE: Mapping[str, Range] = {
    **_ADAPTER,
    "lr": Range(
        5e-7, 1e-5, 5e-8, 1e-4, "it hardly moves",
        "both answers tend to become unlikely, and the text falls apart", f"{TUNSTALL}; {RAFAILOV}",
    ),
}  # fmt: skip

RANGES: Mapping[str, Mapping[str, Range]] = {"full": _FULL, "adapter": _ADAPTER, "preference": _PREFERENCE}
_FULL_METHODS = ("full", "half", "qat", "prune", "distil")


def preset(name: str) -> Preset:
    """ValueError: there is none of that name; the known ones are listed."""
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; {', '.join(PRESETS)} are known")
    return PRESETS[name]


def ranges_for(method: str, adapter: bool | None = None) -> Mapping[str, Range]:
    """The ranges that a method is judged by. adapter: whether it trains one; None: as the method usually does."""
    if adapter is None:
        adapter = method not in _FULL_METHODS
    kind = "preference" if method == "dpo" else "adapter" if adapter else "full"
    return {**RANGES[kind], **_EVERY}


def advice(settings: object, adapter: bool | None = None) -> list[str]:
    """A warning for each setting far outside what is usual, with what tends to happen there.

    settings: any object with the settings as attributes; None and missing ones are passed over. adapter: whether one is
    trained; None: as the method usually does.
    """
    given = {name: getattr(settings, name, None) for name in _FIELDS}
    method = given["method"] if isinstance(given["method"], str) else "lora"
    values: dict[str, Any] = {name: value for name, value in given.items() if _is_number(value)}
    if values.get("steps"):
        values.pop("epochs", None)  # the steps decide
    if values.get("rank") and "alpha" in values:
        root = 0.5 if method == "rslora" else 1.0
        values["alpha / rank"] = values["alpha"] / values["rank"] ** root
    if not values.get("grad_clip"):
        values.pop("grad_clip", None)  # off
    out = []
    for name, usual in ranges_for(method, adapter).items():
        value = values.get(name)
        if value is None:
            continue
        if value < usual.far_below or value > usual.far_above:
            what = usual.below if value < usual.far_below else usual.above
            out.append(
                f"{name} is {value:g}; usual for {method} are {usual.low:g} to {usual.high:g} ({usual.source}): {what}"
            )
    return out


_FIELDS = (
    "method", "lr", "rank", "alpha", "batch_size", "epochs", "steps", "dropout", "weight_decay", "warmup",
    "grad_clip",
)  # fmt: skip


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
