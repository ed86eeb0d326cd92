"""Training on the base that is served: adapters on the quantised weights, and small models as a whole.

`train`, `Settings`, `Plan`, `Result` and `Trained` need the extra `train` (torch); data, metrics and presets don't.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import Trained, train
    from .settings import Settings
    from .trainer import Plan, Result

__all__ = ["Plan", "Result", "Settings", "Trained", "train"]
_HOMES = {"Trained": "run", "train": "run", "Settings": "settings", "Plan": "trainer", "Result": "trainer"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Before torch is loaded, for its threads to sleep while they wait: spinning ones would starve the core's pool,
    # which works in turns with them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise ModuleNotFoundError("training needs PyTorch: pip install 'lora_edge[train]'", name="torch") from None
