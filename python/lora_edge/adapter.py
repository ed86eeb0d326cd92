"""A loaded adapter, and the ways of naming those that a call runs with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from . import _core
from .checks import real
from .encoder_head import HeadPart

AdapterSpec = str | Mapping[str, float] | None
"""None: the base alone; a loaded adapter's name; or names with weights, applied in order."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter beside a base: y = W·x + Σ scale·weight·B(A·x) (Hu et al. 2021, arXiv:2106.09685).

    `scale` was given at load and multiplies the file's own scales (alpha/r and its kin); a weight given per
    call multiplies both.  head: what it says of an encoder's pooler and labels.  invocation: the
    tokens of an activated LoRA (aLoRA, Greenewald et al. 2025, arXiv:2504.12397), which is active from their last
    occurrence in the prompt on; empty for others.
    """

    name: str
    path: str
    kind: str
    scale: float
    invocation: tuple[int, ...]
    core: _core.Adapter = field(repr=False)
    head: HeadPart = field(default_factory=HeadPart, repr=False)

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each adapted tensor, by the base's tensor name."""
        return {**self.core.ranks(), **{name: entry.b.shape[1] for name, entry in self.head.entries.items()}}

    @property
    def n_bytes(self) -> int:
        """Bytes of the factors in memory."""
        return self.core.n_bytes + self.head.n_bytes


def invocations(spec: AdapterSpec, loaded: Mapping[str, Adapter]) -> list[tuple[int, ...]]:
    """The invocation tokens of each adapter of `spec`, which `resolve` has checked; [] where none has any."""
    names = [] if spec is None else [spec] if isinstance(spec, str) else [*spec]
    found = [loaded[name].invocation for name in names]
    return found if any(found) else []


def head_parts(spec: AdapterSpec, loaded: Mapping[str, Adapter]) -> list[tuple[HeadPart, float]]:
    """What the adapters of `spec` say of an encoder's head, with their weights. ValueError: see `resolve`."""
    weights = [weight for _, weight in resolve(spec, loaded)]
    names = [] if spec is None else [spec] if isinstance(spec, str) else [*spec]
    return [(loaded[name].head, weight) for name, weight in zip(names, weights)]


def resolve(spec: AdapterSpec, loaded: Mapping[str, Adapter]) -> list[tuple[_core.Adapter, float]]:
    """The core's adapter set for `spec`. ValueError: a name is not loaded."""
    if spec is None:
        return []
    if not isinstance(spec, (str, Mapping)):
        hint = f": give its name, {spec.name!r}" if isinstance(spec, Adapter) else ""
        raise ValueError(f"adapter must be None, a name or {{name: weight}}, not {type(spec).__name__}{hint}")
    weights = {spec: 1.0} if isinstance(spec, str) else spec
    out = []
    for name, weight in weights.items():
        if name not in loaded:
            known = ", ".join(sorted(loaded)) or "none"
            raise ValueError(f"no adapter {name!r} is loaded (loaded: {known}); call load_adapter first")
        out.append((loaded[name].core, real(f"the weight of adapter {name!r}", weight)))
    return out
