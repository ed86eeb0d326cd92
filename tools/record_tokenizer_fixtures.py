"""Records tests/fixtures/tokenizer/*.json: two small vocabularies and the ids that llama.cpp gives to random
texts.

The vocabularies are trained here, on text made here; the seed is fixed, so a second run changes nothing
unless the tokenizers library or llama.cpp does. Needs the packages of `make peer`.

python tools/record_tokenizer_fixtures.py
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import unicodedata
from pathlib import Path

import llama_cpp
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "python")]

from tokenizer_cases import (  # noqa: E402
    Metadata,
    metadata_of_bpe,
    random_text,
    special_words_of,
    words_of,
    write_vocabulary,
)

SEED = 20_240_607
CASES = 60
MERGES = 400
KINDS = ("gpt-2", "smollm", "qwen2", "llama-bpe", "default")
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PARTS = (
    ["Please", "Could you", "I'd like you to", "Don't", "We'll", "it's time to", "PLEASE"],
    ["turn", "switch", "dim", "open", "close", "set", "raise", "übersetze", "включи", "打开"],
    [
        "the lamp",
        "the lights",
        "both blinds",
        "the café's heating",
        "el ventilador",
        "Größe",
        "свет",
        "灯光",
        "조명",
    ],
    ["in the kitchen", "upstairs", "at 7:30", "to 21.5 degrees", "by 40 %", "in 15 minutes", "now", "später"],
    [".", "!", "?", "...", "\n\n", " -- ", ";\n    ", "\t", ' {"room": "hall"}'],
)


def sentences(rng: random.Random, n: int) -> list[str]:
    return [" ".join(rng.choice(part) for part in PARTS) for _ in range(n)]


def byte_level(texts: list[str]) -> Metadata:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256 + MERGES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    control = {text: len(model["vocab"]) + i for i, text in enumerate(CONTROL)}
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    end = control["<|im_end|>"]
    return metadata_of_bpe(model["vocab"], merges, "gpt-2", control, bos_token_id=end - 2, eos_token_id=end)


def sentencepiece(texts: list[str]) -> Metadata:
    """Pieces in the order in which merges made them, each scored by minus its rank; then characters, then
    added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=MERGES + 100, show_progress=False))
    vocab = json.loads(tokenizer.to_str())["model"]["vocab"]
    made = [text for text in sorted(vocab, key=vocab.__getitem__) if len(text) > 1]
    made += ["▁▁", "▁▁▁▁", "▁▁▁"]
    characters = [text for text in sorted(vocab, key=vocab.__getitem__) if len(text) == 1]
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{b:02X}>" for b in range(256)),
        *made,
        *characters,
        "<tool>",
        "<|im_end|>",
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array([0.0] * 259 + [-float(i) for i in range(len(tokens) - 259)], np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 261) + [4, 3], np.int32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def record(name: str, meta: Metadata, kinds: tuple[str, ...], rng: random.Random) -> None:
    words = [*words_of(meta)[259 if name == "sentencepiece" else 256 :], *special_words_of(meta) * 20]
    texts = ["", " ", "\n", *(random_text(rng, words, pieces=8) for _ in range(CASES))]
    ids: list[dict[str, list[list[int]]]] = [{} for _ in texts]
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vocab.gguf"
            write_vocabulary(path, meta if kind == "llama" else meta | {"tokenizer.ggml.pre": kind})
            peer = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
            for text, entry in zip(texts, ids, strict=True):
                # Qwen's own tokenizer normalises first, and its ids decide; llama.cpp leaves it out
                given = (unicodedata.normalize("NFC", text) if kind == "qwen2" else text).encode()
                entry[kind] = [peer.tokenize(given, add_bos=True, special=special) for special in (False, True)]
    cases = [{"text": text, "ids": entry} for text, entry in zip(texts, ids, strict=True)]
    plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in meta.items()}
    path = ROOT / "tests" / "fixtures" / "tokenizer" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases]
    head = json.dumps(plain, ensure_ascii=True, separators=(",", ":"))
    path.write_text('{"metadata":' + head + ',\n"cases":[\n' + ",\n".join(lines) + "\n]}\n", "utf-8")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes, {len(cases)} texts")


def main() -> None:
    rng = random.Random(SEED)
    texts = sentences(rng, 2000)
    record("byte_level", byte_level(texts), KINDS, rng)
    record("sentencepiece", sentencepiece(texts), ("llama",), rng)


if __name__ == "__main__":
    main()
