"""What a run leaves: an adapter as a PEFT folder and as GGUF, or a GGUF model; the loss curve; the model card."""

from __future__ import annotations

import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType

from ..adapter_file import BaseInfo
from ..adapter_parts import LOOKED_UP
from ..convert.adapter_gguf import write_adapter
from ..convert.adapter_peft import write_peft
from ..convert.merge import base_metadata
from ..convert.weights import convert, stored_type
from ..convert.writer import Planned, write_gguf
from ..encoder_names import LABELS_KEY
from ..gguf_file import open_gguf
from ..quant import to_f32
from .method import Method

ADAPTER, MODEL, CURVE, CARD = "adapter.gguf", "model.gguf", "loss.png", "README.md"
SMOOTHED = 40  # points from which on a mean is drawn beside them


def write_result(method: Method, out: Path, base: str, type: str) -> list[Path]:
    """An adapter: adapter_config.json, adapter_model.safetensors (float32) and adapter.gguf; a model: model.gguf with
    matrices of `type`. The files that were written."""
    out.mkdir(parents=True, exist_ok=True)
    path = method.network.model.path
    if method.kind == "model":
        write_model(method, path, out / MODEL, type)
        return [out / MODEL]
    info, adapter = BaseInfo.from_gguf(open_gguf(path)), method.adapter()
    written = []
    with tempfile.TemporaryDirectory(prefix=".peft.", dir=out) as folder:
        write_peft(adapter, info, Path(folder) / "adapter", "f32", base)
        for file in sorted((Path(folder) / "adapter").iterdir()):
            os.replace(file, out / file.name)
            written.append(out / file.name)
    write_adapter(adapter, info, out / ADAPTER, "f32" if type == "f32" else "f16", out.resolve().name, None)
    return [*written, out / ADAPTER]


def write_model(method: Method, base: str, out: Path, type: str) -> None:
    """The base's file with the trained tensors in place of its own."""
    source, trained = open_gguf(base), method.model_tensors()
    type = method.file_type or type
    tensors = []
    for name in dict.fromkeys((*source.tensors, *trained)):
        values = np.ascontiguousarray(trained[name]) if name in trained else to_f32(source.tensors[name])
        kind = "f32" if name in LOOKED_UP else stored_type(type, values.shape, name.rpartition(".")[0])
        tensors.append(Planned(name, kind, values.shape, partial(convert, values, kind, name)))
    arch, metadata = str(source.metadata["general.architecture"]), base_metadata(Path(base), type)
    metadata |= {f"{arch}.{key}": (n, GGUFValueType.UINT32) for key, n in method.sizes().items()}
    if method.network.head is not None:
        metadata[f"{arch}.{LABELS_KEY}"] = (list(method.network.head.labels), GGUFValueType.STRING)
    write_gguf(out, arch, metadata, tensors)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def draw_curve(metrics: list[dict[str, Any]], out: Path, title: str, unit: str = "token") -> None:
    """Loss over steps per `unit`, of what is trained on and of what is held out, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    train = [(m["step"], m["loss"]) for m in metrics if "loss" in m]
    valid = [(m["step"], m["valid_loss"]) for m in metrics if "valid_loss" in m]
    if train:
        steps, losses = zip(*train)
        smoothed = len(losses) >= SMOOTHED
        axes.plot(steps, losses, color="#9ab7d3" if smoothed else "#1f5f99", linewidth=2 - smoothed, label="train")
        if smoothed:
            axes.plot(steps, _smooth(losses), color="#1f5f99", linewidth=2, label="train, smoothed")
    if valid:
        axes.plot(*zip(*valid), color="#d1495b", marker="o", markersize=5, linewidth=2, label="held out")
    axes.set(xlabel="step", ylabel=f"loss (nats per {unit})", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    temporary = out.with_suffix(".tmp.png")
    figure.savefig(temporary)
    pyplot.close(figure)
    os.replace(temporary, out)


def _smooth(values: tuple[float, ...]) -> list[float]:
    """Exponential mean over about a twentieth of the curve."""
    keep = 1 - 1 / max(1.0, len(values) / 20)
    smoothed = [values[0]]
    for value in values[1:]:
        smoothed.append(keep * smoothed[-1] + (1 - keep) * value)
    return smoothed
