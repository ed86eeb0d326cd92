"""Where a model computes: the CPU, or a GPU whose driver answers and which passes a self-test against the CPU."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cache

from . import _core

CPU = -1


@dataclass(frozen=True)
class Device:
    """A GPU. capability: NVIDIA's number of its generation. n_bytes: of its memory. problem: why it can't be used;
    empty where it can."""

    name: str
    title: str
    capability: tuple[int, int]
    n_bytes: int
    integrated: bool
    problem: str


def devices() -> list[Device]:
    """The GPUs that the CUDA driver has, each tested; none where there is no driver."""
    return [
        Device(
            f"cuda:{d['index']}",
            d["name"],
            d["capability"],
            d["n_bytes"],
            d["integrated"],
            _core.cuda_self_test(d["index"]),
        )
        for d in _core.cuda_devices()
    ]


def device_name(device: str) -> str:
    """What the driver calls "cuda:N"; empty for the CPU."""
    return next((str(d["name"]) for d in _core.cuda_devices() if device == f"cuda:{d['index']}"), "")


def missing_driver() -> str:
    """Why there is no CUDA driver; empty where there is one."""
    return str(_core.cuda_driver()[1])


def choose(device: str, kv_type: str) -> int:
    """The number of the GPU that a model is to run on; CPU, a negative one, for the CPU.

    device: "cpu", "cuda" (the first GPU), "cuda:N", or "auto": the first GPU that works, else the CPU. ValueError: no
    such word, or keys and values of a type that the GPU doesn't keep. RuntimeError: the GPU can't be used.
    """
    if device == "cpu":
        return CPU
    if device == "auto":
        return _automatic(kv_type)
    asked = re.fullmatch(r"cuda(?::(\d{1,3}))?", device)
    if not asked:
        raise ValueError(f"device {device!r} is unknown: 'auto', 'cpu', 'cuda' and 'cuda:N' are possible")
    index = int(asked[1] or 0)
    if problem := _core.cuda_self_test(index):
        raise RuntimeError(f"device {device!r} can't be used: {problem.removeprefix('[cuda] ')}")
    if kv_type == "q8_0":
        raise ValueError(f"device {device!r} keeps no keys and values as q8_0; use kv_type='f16' or device='cpu'")
    return index


def _automatic(kv_type: str) -> int:
    if not _core.cuda_devices():
        return CPU
    if problem := _core.cuda_self_test(0):
        _warn_once(problem)
        return CPU
    return CPU if kv_type == "q8_0" else 0


@cache
def _warn_once(problem: str) -> None:
    warnings.warn(f"the GPU isn't used, the CPU is: {problem.removeprefix('[cuda] ')}", RuntimeWarning, stacklevel=5)
