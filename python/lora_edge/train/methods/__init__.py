"""The methods by their words on the command line."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..method import Method
from ..settings import DATA_OPTIONS, Settings

METHODS = {
    "full": "full:Full",
    "lora": "lora:Lora",
    "rslora": "lora:RsLora",
    "lora+": "lora_plus:LoraPlus",
    "dora": "dora:Dora",
    "adalora": "adalora:AdaLora",
    "half": "half:Half",
    "qat": "qat:Qat",
    "prune": "prune:Prune",
    "distil": "distil:Distil",
    "dpo": "dpo:Dpo",
}


def check_options(settings: Settings) -> None:
    """ValueError: an option is known neither to the method nor to the data."""
    known = method_class(settings.method).known_options(settings) | set(DATA_OPTIONS)
    for name, _ in settings.options:
        if name not in known:
            raise ValueError(f"[train] {settings.method} knows no option {name!r}; known: {', '.join(sorted(known))}")


def method_class(word: str) -> type[Method]:
    """ValueError: there is no such method."""
    if word not in METHODS:
        raise ValueError(f"[train] method {word!r} is not one of {', '.join(METHODS)}")
    module, _, name = METHODS[word].partition(":")
    found: type[Method] = getattr(import_module(f".{module}", __name__), name)
    return found
