"""Defaults of sampling: generation_config.json <-> `general.sampling.*`, which holds for sampling alone.

A configuration without do_sample is greedy; GGUF has no word for that, so its numbers are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf

from .fields import Fields

I32, F32 = gguf.GGUFValueType.INT32, gguf.GGUFValueType.FLOAT32
_KEYS = {
    "temperature": gguf.Keys.General.SAMPLING_TEMP,
    "top_k": gguf.Keys.General.SAMPLING_TOP_K,
    "top_p": gguf.Keys.General.SAMPLING_TOP_P,
    "min_p": gguf.Keys.General.SAMPLING_MIN_P,
    "repetition_penalty": gguf.Keys.General.SAMPLING_PENALTY_REPEAT,
}


def sampling_metadata(config: Mapping[str, Any], where: str) -> dict[str, tuple[Any, gguf.GGUFValueType]]:
    """The keys of a generation_config.json.  ValueError names a field that is no number."""
    if config.get("do_sample") is not True:
        return {}
    get, found = Fields(config, where), {}
    for name, key in _KEYS.items():
        if config.get(name) is not None:
            number = get.number(name)
            found[key] = (int(number), I32) if name == "top_k" else (number, F32)
    return found


def generation_config(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that `general.sampling.*` of a file gives."""
    found = {name: meta[key] for name, key in _KEYS.items() if key in meta}
    fields = {name: int(v) if name == "top_k" else float(f"{float(v):.7g}") for name, v in found.items()}
    return {"do_sample": True, **fields} if fields else {}
