"""A process whose peak of resident memory is measured: python memory_probe.py train|label|infer MODEL JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from lora_edge.planning.process import peak


def train(model: str, words: dict[str, Any]) -> None:
    """Two steps on texts that fill the maximum length, through to the files."""
    from lora_edge.train import train

    with tempfile.TemporaryDirectory() as folder:
        text = "qx zj " * words["max_length"]  # two characters a token at most
        lines = [json.dumps({"text": f"{i} {text}"}) for i in range(2 * words["batch_size"])]
        (Path(folder) / "train.jsonl").write_text("\n".join(lines) + "\n")
        made = train(model, folder, Path(folder) / "out", threads=1, steps=2, force=True, say=lambda _: None, **words)
        assert made.result.steps == 2 and made.result.tokens > 1.9 * words["batch_size"] * words["max_length"]


def label(model: str, words: dict[str, Any]) -> None:
    """The same of labelled texts, for encoders."""
    from lora_edge.train import train

    with tempfile.TemporaryDirectory() as folder:
        text = "cat dog " * words["max_length"]
        lines = [json.dumps({"text": f"{i} {text}", "label": str(i % 2)}) for i in range(2 * words["batch_size"])]
        (Path(folder) / "train.jsonl").write_text("\n".join(lines) + "\n")
        made = train(model, folder, Path(folder) / "out", threads=1, steps=2, force=True, say=lambda _: None, **words)
        assert made.result.steps == 2 and made.result.tokens > 0.9 * words["batch_size"] * words["max_length"]


def infer(model: str, words: dict[str, Any]) -> None:
    """A text that fills the context, half of it read and the rest written in pieces."""
    import lora_edge

    loaded = lora_edge.load(model, threads=1, n_ctx=words["n_ctx"], kv_type=words["kv_type"])
    sequence = lora_edge.Sequence(loaded)
    for _ in range(words["n_ctx"] // 256 - 1):
        sequence.feed([7] * 256)
    loaded.complete([3] * 100, max_tokens=8)


if __name__ == "__main__":
    {"train": train, "label": label, "infer": infer}[sys.argv[1]](sys.argv[2], json.loads(sys.argv[3]))
    print(peak())
