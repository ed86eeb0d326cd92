"""The three ways of a bench: the base alone, the adapter merged into it, and the adapter beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..model import Model
from .runs import Arm

SYNTHETIC = "random"  # the adapter's name where none is given
MERGED_BY_DEFAULT = 256 << 20  # bytes of a base that takes seconds to merge


class Files:
    """What a bench reads: the base, its adapters, and those made for it in `folder`: a random one, the merged base."""

    def __init__(self, model: Model, weights: Mapping[str, float], rank: int, merge: bool | None, folder: Path) -> None:
        """weights: the given adapters; none: a random one of this rank. merge: None, where the base is small enough."""
        self.base = Path(model.path)
        self.synthetic: Path | None = None
        parts = [(Path(model.adapters[name].path), weight) for name, weight in weights.items()]
        if not parts:
            from ..convert.random_adapter import write_random_adapter

            self.synthetic = write_random_adapter(self.base, folder / f"{SYNTHETIC}.gguf", rank=rank)
            parts = [(self.synthetic, 1.0)]
        self.merged: Path | None = None
        if merge if merge is not None else model.core.file.size <= MERGED_BY_DEFAULT:
            from ..convert.merge import merge as merge_adapters

            self.merged = merge_adapters(self.base, parts, folder / "merged.gguf").path

    def arms(self, model: Model, weights: Mapping[str, float]) -> dict[str, Arm]:
        """base, merged (where it was made) and unmerged, in this order; `model` as the first was opened."""
        spec = dict(weights)
        if self.synthetic is not None:
            model.load_adapter(self.synthetic, name=SYNTHETIC)
            spec = {SYNTHETIC: 1.0}
        arms = {"base": Arm(model, None)}
        if self.merged is not None:
            merged = Model(
                self.merged, n_ctx=model.n_ctx, threads=model.core.threads, kv_type=model.core.kv_type,
                device=model.device,
            )  # fmt: skip
            arms["merged"] = Arm(merged, None)
        arms["unmerged"] = Arm(model, spec)
        return arms


@contextmanager
def prepared(model: Model, weights: Mapping[str, float], rank: int, merge: bool | None) -> Iterator[Files]:
    """Files whose temporary part goes with the context. OSError: the disk is full, for one. ValueError: the model is
    an encoder."""
    model.need_decoder()
    with TemporaryDirectory(prefix="lora-edge-bench-") as folder:
        yield Files(model, weights, rank, merge, Path(folder))
