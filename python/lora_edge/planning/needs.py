"""`lora_edge.plan`: what a run will need, whether it fits, and what would."""

from __future__ import annotations

import os
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import builtin, hub
from ..checks import whole
from ..threads import default_threads
from ..train.targets import queries_and_values
from .cheaper import Change, cheaper
from .header import Header, read_header
from .inference import inference_parts
from .limits import Limit, limits, parse_size
from .training import training_parts

if TYPE_CHECKING:
    from ..train.settings import Settings

MAX_CONTEXT = 1 << 30  # tokens


@dataclass(frozen=True)
class MemoryPlan:
    """parts: bytes by what they are for; `peak`, their sum, is the most that the process will be resident with, pages
    of the mapped file (parts["weights"]) included. limits: of this machine and as given, the smallest first. cheaper:
    where it doesn't fit, changes of the settings with which it would, each with the peak that it leads to."""

    path: str
    task: str
    parts: dict[str, int]
    limits: tuple[Limit, ...]
    cheaper: tuple[Change, ...] = ()

    @property
    def peak(self) -> int:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return all(self.peak <= limit.n_bytes for limit in self.limits)

    def verdict(self) -> str:
        """One line, and where it doesn't fit one more for each way out."""
        if not self.limits:
            return f"needs {_mb(self.peak)}; how much there is here is not known"
        limit = self.limits[0]
        if self.fits:
            return f"fits: {_mb(self.peak)} of {_mb(limit.n_bytes)} ({limit.what})"
        lines = [f"does not fit: {_mb(self.peak)}, but there are {_mb(limit.n_bytes)} ({limit.what})"]
        lines += [f"  would fit: {change.words} ({_mb(change.peak)})" for change in self.cheaper if change.fits]
        if not any(change.fits for change in self.cheaper):
            least = min(self.cheaper, key=lambda change: change.peak, default=None)
            lines.append(f"  the least is {least.words} ({_mb(least.peak)})" if least else "  nothing cheaper is known")
        return "\n".join(lines)

    def check(self) -> None:
        """MemoryError: it doesn't fit; the message is the verdict."""
        if not self.fits:
            raise MemoryError(f"[plan] {self.task} of '{self.path}' {self.verdict()}")

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.path,
            "task": self.task,
            "bytes": self.parts,
            "peak": self.peak,
            "limits": [asdict(limit) for limit in self.limits],
            "fits": self.fits,
            "cheaper": [asdict(change) for change in self.cheaper],
        }


def plan(
    model: str | os.PathLike[str] | None = None,
    *,
    settings: Settings | None = None,
    n_ctx: int | None = None,
    kv_type: str = "auto",
    adapters: Seq[str | os.PathLike[str]] = (),
    threads: int | None = None,
    memory_limit: str | int | None = None,
    length: int | None = None,
    **words: Any,
) -> MemoryPlan:
    """What a file will need, from its header alone; torch need not be installed.

    With `settings`, or with words that are fields of them (method="lora", rank=16 ...), that is training on rows of
    `length` tokens (by default max_length). Otherwise it is inference, of a text that fills n_ctx tokens (by default
    as trained) with `adapters` (paths). memory_limit: bytes, or "2GB". ValueError: a word or a value is wrong, or the
    file is no model; FileNotFoundError: it isn't there.
    """
    header = read_header(_gguf(model))
    threads = default_threads() if threads is None else threads
    if settings is not None or words:
        from ..train.settings import Settings

        known = Settings.from_dict({**(settings or Settings()).as_dict(), **_checked(words)})
        known.check()
        return plan_training(header, known, memory_limit, length=length, threads=threads)
    return _inference(
        header, _limits(memory_limit), n_ctx, kv_type, [os.fspath(hub.local(a)) for a in adapters], threads
    )


def plan_training(
    header: Header,
    settings: Settings,
    memory_limit: str | int | None = None,
    *,
    length: int | None = None,
    threads: int = 1,
    base: int | None = None,
    processes: int = 1,
) -> MemoryPlan:
    """base: bytes that the process holds before it begins; by default those of a fresh one."""
    found = _limits(memory_limit, processes)
    longest = header.n_ctx if length is None else min(length, header.n_ctx)

    def parts(settings: Settings) -> dict[str, int]:
        return training_parts(header, settings, min(longest, settings.max_length), threads=threads, base=base)

    made = MemoryPlan(header.path, f"training ({settings.method})", parts(settings), found)
    if made.fits:
        return made
    narrow = queries_and_values(header.linears, header.arch, header.family)
    changes = cheaper(settings, lambda s: sum(parts(s).values()), found[0].n_bytes, longest, narrow)
    return replace(made, cheaper=tuple(changes))


def _limits(memory_limit: str | int | None, processes: int = 1) -> tuple[Limit, ...]:
    allowed = parse_size(memory_limit) if isinstance(memory_limit, str) else memory_limit
    return tuple(limits(None if allowed is None else whole("memory_limit", allowed, 1, 1 << 60), processes))


def _inference(
    header: Header, found: tuple[Limit, ...], n_ctx: int | None, kv_type: str, adapters: list[str], threads: int
) -> MemoryPlan:
    n_ctx = header.n_ctx if n_ctx is None else whole("n_ctx", n_ctx, 1, MAX_CONTEXT)
    if kv_type not in ("auto", "f32", "f16", "q8_0"):
        raise ValueError(f"kv_type {kv_type!r} is unknown; auto, f32, f16 and q8_0 are possible")

    def parts(n_ctx: int, kv_type: str) -> dict[str, int]:
        return inference_parts(header, n_ctx, kv_type=kv_type, adapters=adapters, threads=threads)

    made = MemoryPlan(header.path, f"inference, context {n_ctx}", parts(n_ctx, kv_type), found)
    if made.fits:
        return made
    room, tried = found[0].n_bytes, []
    if kv_type != "q8_0" and header.head_dim % 32 == 0 and header.causal:
        tried.append(("--kv-type q8_0", sum(parts(n_ctx, "q8_0").values())))
    shorter = n_ctx // 2
    while shorter > 128 and sum(parts(shorter, kv_type).values()) > room:
        shorter //= 2
    if shorter >= 64:
        tried.append((f"-c {shorter}", sum(parts(shorter, kv_type).values())))
    return replace(made, cheaper=tuple(Change(words, peak, peak <= room) for words, peak in tried))


def _checked(words: dict[str, Any]) -> dict[str, Any]:
    from ..train.settings import Settings

    known = set(Settings().as_dict())
    for word in words:
        if word not in known:
            raise ValueError(f"[plan] setting {word!r} is not one of {', '.join(sorted(known))}")
    return {word: value for word, value in words.items() if value is not None}


def _gguf(model: str | os.PathLike[str] | None) -> str:
    """ValueError: it is a folder without one GGUF file."""
    if model is None or model == builtin.NAME:
        return os.fspath(builtin.base())
    path = Path(hub.local(model))
    if not path.is_dir():
        return os.fspath(path)
    files = sorted(path.glob("*.gguf"))
    if len(files) != 1:
        raise ValueError(f"[plan] {path} holds {len(files)} GGUF files: name one, or make one with lora-edge convert")
    return os.fspath(files[0])


def _mb(n: int) -> str:
    return f"{n / 1e6:,.0f} MB"
