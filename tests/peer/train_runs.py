"""Small runs of training for the tests: a random model, a folder of data, and the command line on them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from tiny_models import Shape, random_tensors, write_model
from tokenizer_cases import small_vocabulary
from train_cases import write_jsonl

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "to",
    "mat",
    "house",
    "red",
    "blue",
    "saw",
    "it",
    "and",
    "then",
    "was",
    "home",
]
LENGTH = 48  # tokens of an example at most
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
# What differs from run to run.
CLOCK = ("seconds", "tokens_per_second")


def tiny_base(path: Path, type: str = "q8_0", seed: int = 0) -> Path:
    vocabulary = small_vocabulary("qwen2")
    n_vocab = len(vocabulary["tokenizer.ggml.tokens"])
    shape = Shape("llama", 2, 64, 4, 2, 16, 96, n_vocab=n_vocab, tied=True)
    return write_model(path, shape, random_tensors(np.random.default_rng(seed), shape), type, vocabulary)


def sentences(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, int(rng.integers(4, 12)))) for _ in range(n)]


def text_folder(folder: Path, n: int = 24, n_valid: int = 6) -> Path:
    folder.mkdir(exist_ok=True)
    texts = sentences(n + n_valid)
    write_jsonl(folder / "train.jsonl", ({"text": text} for text in texts[:n]))
    write_jsonl(folder / "valid.jsonl", ({"text": text} for text in texts[n:]))
    return folder


def command(base: Path, data: Path, out: Path, *flags: str) -> list[str]:
    return [
        sys.executable, "-m", "lora_edge", "train", "-m", str(base), "--data", str(data), "-o", str(out), "-t", "1",
        "--max-length", str(LENGTH), "--lr", "1e-3", "--rank", "4", "--batch-size", "4", "--log-every", "1", *flags,
    ]  # fmt: skip


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what the clock says."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def result_bytes(out: Path) -> dict[str, bytes]:
    """The files that a run is for."""
    names = ("adapter.gguf", "adapter_model.safetensors", "adapter_config.json", "model.gguf", "settings.json")
    return {name: (out / name).read_bytes() for name in names if (out / name).exists()}
