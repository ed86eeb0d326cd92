"""Exact match on held-out requests, by the runtime itself."""

from __future__ import annotations

from collections.abc import Sequence

from domain.samples import Sample
from lora_edge.model import Model

BATCH = 50


def exact_match(
    model: Model, adapter: str | None, samples: Sequence[Sample], view: str, show: int = 0
) -> dict[str, float]:
    """The share answered exactly, greedily, for each split and in all; prints the first `show` mistakes."""
    given: list[str] = []
    for i in range(0, len(samples), BATCH):
        texts = [s.text for s in samples[i : i + BATCH]]
        given += model.generate_batch(texts, adapters=[adapter] * len(texts), max_tokens=110)
    right = [g == s.answers[view] for g, s in zip(given, samples, strict=True)]
    for g, s in [(g, s) for g, s, ok in zip(given, samples, right, strict=True) if not ok][:show]:
        print(f"  {s.text!r}\n    wants {s.answers[view]}\n    gives {g}")
    result = {"all": sum(right) / len(right)}
    for split in ("template", "combination"):
        of_split = [ok for ok, s in zip(right, samples, strict=True) if s.split == split]
        result[split] = sum(of_split) / max(1, len(of_split))
    return result
