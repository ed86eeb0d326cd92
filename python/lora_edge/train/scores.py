"""Accuracy, F1 and Matthews correlation of a finished run on labelled data, by the files that it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..api import load
from ..model import Model
from .classify import predict
from .data import Data
from .metrics import Scores, classification_scores


def score_labels(base: Model, written: Path, under: Mapping[str, float], data: Data) -> dict[str, Scores]:
    """By split, of valid and test. written: the adapter's file, used on `base` together with those `under` it, or a
    model's. Empty: the data has no labels.

    RuntimeError: scikit-learn is missing.
    """
    if data.labels is None or not (data.valid or data.test):
        return {}
    is_model = written.name == "model.gguf"
    model = load(written, threads=base.core.threads, device="cpu") if is_model else base
    names: dict[str, float] = {}
    try:
        for path, weight in ({} if is_model else {**under, str(written): 1.0}).items():
            name = f"{path} (scored)"
            model.load_adapter(path, name=name)
            names[name] = weight
        out = {}
        for split, examples in (("valid", data.valid), ("test", data.test)):
            if examples:
                found = predict(model, examples, data.labels, adapter=names or None)
                out[split] = classification_scores([e.label for e in examples], found, len(data.labels.names))
        return out
    finally:
        for name in names:
            base.unload_adapter(name)
        if is_model:
            model.close()
