"""On-device LoRA inference: one INT8 base model in memory, many adapters beside it, never merged.

    import lora_edge
    print(lora_edge.generate("turn on the kitchen light"))                  # the built-in model
    print(lora_edge.generate("turn on the kitchen light", adapter="json"))  # the same base, adapted

Names are imported when they are first used, so that `import lora_edge` costs next to nothing and the parts
that need no compiled core (conversion, quantisation) work without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter import Adapter
    from .api import generate, load, runtime_info
    from .compare import VerifyReport, verify
    from .convert.extract import ExtractReport, extract
    from .convert.merge import MergeReport, merge
    from .fitting import FitReport, fit
    from .generation import Completion, Timings, Token
    from .model import Model
    from .planning import MemoryPlan, plan
    from .sequence import Sequence

__version__ = "0.1.0"

_HOME = {
    "Adapter": "adapter",
    "Completion": "generation",
    "ExtractReport": "convert.extract",
    "FitReport": "fitting.repair",
    "MemoryPlan": "planning",
    "MergeReport": "convert.merge",
    "Model": "model",
    "Sequence": "sequence",
    "Timings": "generation",
    "Token": "generation",
    "VerifyReport": "compare.verification",
    "extract": "convert.extract",
    "fit": "fitting.repair",
    "generate": "api",
    "load": "api",
    "merge": "convert.merge",
    "plan": "planning",
    "runtime_info": "api",
    "verify": "compare.verification",
}

__all__ = [
    "Adapter",
    "Completion",
    "ExtractReport",
    "FitReport",
    "MemoryPlan",
    "MergeReport",
    "Model",
    "Sequence",
    "Timings",
    "Token",
    "VerifyReport",
    "extract",
    "fit",
    "generate",
    "load",
    "merge",
    "plan",
    "runtime_info",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lora_edge' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
