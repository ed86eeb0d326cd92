"""Models in llama.cpp: the vocabulary it wants, its logits, and when they are those of another program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

N_VOCAB = 96
GELU_BOUND = 3e-2  # ggml looks GELU up in a table of float16


def give_tokenizer(folder: Path) -> None:
    """N_VOCAB tokens without merges, for llama.cpp, which loads no model without a vocabulary."""
    tokens = ["<unk>", "<s>", "</s>", "\u2581", *(chr(i) for i in range(33, 33 + N_VOCAB - 4))]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    vocab = {t: i for i, t in enumerate(tokens)}
    model = {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "vocab": vocab, "merges": []}
    tokenizer = {
        "normalizer": replace,
        "pre_tokenizer": None,
        "post_processor": None,
        "model": model,
        "added_tokens": [],
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def llama_cpp_logits(
    model: Path, windows: list[list[int]], lora: Path | None = None, *, n_ctx: int = 512, **options: Any
) -> list[np.ndarray]:
    """Float32 logits [len(ids), n_vocab] of each window, on one thread; options: of `llama_cpp.Llama`."""
    llm: Any = llama_cpp.Llama(
        str(model), n_ctx=n_ctx, n_batch=n_ctx, logits_all=True, verbose=False, n_threads=1, n_threads_batch=1,
        lora_path=str(lora) if lora else None, **options,
    )  # fmt: skip
    out = []
    for ids in windows:
        llm.reset()
        llm.eval(ids)
        out.append(np.array(llm.scores[: len(ids)], dtype=np.float32))
    llm.close()
    return out


def exact_logits(model: Path, ids: list[int], lora: Path | None = None, *, n_ctx: int = 512) -> np.ndarray:
    """The same of one text, with a float32 KV cache and without flash attention."""
    return llama_cpp_logits(model, [ids], lora, n_ctx=n_ctx, type_k=0, type_v=0, flash_attn=False)[0]


def assert_same(made: np.ndarray, wanted: np.ndarray, bound: float) -> None:
    """Logits [n, n_vocab] within `bound`, and the same likeliest token wherever one is clearly the likeliest."""
    difference = float(np.abs(made - wanted).max())
    print(f"max |Δlogit| {difference:.1e}, std {wanted.std():.2f}")
    assert difference < bound
    best = np.sort(wanted, axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > 2 * difference  # a tie within the noise has no first place
    assert clear.mean() > 0.9
    assert np.array_equal(made.argmax(1)[clear], wanted.argmax(1)[clear])
