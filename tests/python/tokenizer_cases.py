"""What the tokenizer tests share: metadata of the vocabularies in shared/data, and random Unicode text."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from lora_edge.gguf_file import open_gguf

Metadata = dict[str, object]
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "tokenizer"

_SCRIPTS = [
    (0x20, 0x7E), (0x20, 0x7E), (0x61, 0x7A), (0xA0, 0xFF), (0x100, 0x24F), (0x300, 0x36F), (0x370, 0x3FF),
    (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF),
    (0x2000, 0x206F),
    (0x2070, 0x209F), (0x20A0, 0x20CF), (0x2100, 0x214F), (0x2460, 0x24FF), (0x2580, 0x259F),
    (0x3000, 0x303F), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0xFE00, 0xFE0F), (0xFF00, 0xFFEF),
    (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF),
]  # fmt: skip
_WORDS = [
    "the", "The", "THE", "a", "in", "it's", "don't", "WE'LL", "you're", "I'd", "I'm", "'ve", "hello", "Lily",
    "3.14", "1234567", "0", "\u00bd", "\u0663", "\u216b",
    "\u00e9t\u00e9", "cafe\u0301", "na\u00efve", "\ufb01", "\u212b",
]  # fmt: skip
_SPACES = [
    " ", "  ", "   ", " " * 7, " " * 16, "\n", "\n\n", "\r\n", "\t", "\t\t", " \n", "\n ",
    "\u00a0", "\u3000", "\u2003", "\u2028", "\x85",
]  # fmt: skip
_EMOJI = [
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f44d\U0001f3fd",
    "\U0001f1e9\U0001f1ea", "e\u0301", "o\u0308\u0323", "\ud55c\uad6d\uc5b4",
    "\u1100\u1161\u11a8", "\u0915\u094d\u0937\u093f",
    "\ufeff", "\ufffd", "\u200b", "\u2581", "\u0120",
]  # fmt: skip
_MARKS = [
    "'",
    "''",
    "\u2019",
    '"',
    "...",
    "---",
    "===",
    "!?",
    "$",
    "<",
    "|>",
    "</",
    "[",
    "_",
    "=" * 9,
    "." * 20,
]


def random_text(rng: random.Random, words: list[str], pieces: int = 12) -> str:
    """A string of up to `pieces` pieces: words, scripts, spaces, emoji, controls and digits, `words` among
    them."""
    out = []
    for _ in range(rng.randint(1, pieces)):
        kind = rng.randrange(10)
        if kind == 0:
            low, high = rng.choice(_SCRIPTS)
            out.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6))))
        elif kind == 1:
            out.append(rng.choice(_SPACES))
        elif kind == 2:
            out.append(rng.choice(_EMOJI))
        elif kind == 3:
            out.append(rng.choice(_MARKS))
        elif kind == 4:
            out.append(
                rng.choice([chr(rng.randrange(0xD800)), chr(rng.randint(0xE000, 0x10FFFF)), chr(rng.randrange(0x21))])
            )
        elif kind == 5:
            out.append(str(rng.randrange(10 ** rng.randint(1, 9))))
        elif kind == 6:
            out.append(rng.choice([" ", ""]) + rng.choice(_WORDS))
        elif kind == 7:
            word = rng.choice(words)
            out.append((word * rng.randint(2, 5))[rng.randrange(len(word)) :])
        else:
            out.append(rng.choice([" ", "", ""]) + rng.choice(words))
    return "".join(out)


def metadata_of_gguf(path: Path) -> Metadata:
    return {k: v for k, v in open_gguf(path).metadata.items() if k.startswith(("tokenizer.", "general."))}


def metadata_of_bpe(
    vocab: dict[str, int], merges: list[str], pre: str, control: dict[str, int], **more: object
) -> Metadata:
    """The GGUF metadata of a byte-level BPE vocabulary; `control` are its control tokens, `more` further
    tokenizer.ggml keys."""
    texts = {i: text for text, i in (vocab | control).items()}
    types = np.ones(len(texts), np.int32)
    types[list(control.values())] = 3
    meta: Metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.merges": merges,
    }
    meta |= {
        "tokenizer.ggml.tokens": [texts[i] for i in range(len(texts))],
        "tokenizer.ggml.token_type": types,
    }
    return meta | {f"tokenizer.ggml.{key}": value for key, value in more.items()}


@cache
def metadata(name: str, data: Path) -> Metadata:
    """Metadata of one of the vocabularies in shared/data (`data`)."""
    if name in ("gpt-2", "llama-spm", "phi-3"):
        return metadata_of_gguf(data / "tokenizers" / f"ggml-vocab-{name}.gguf")
    if name in ("stories260K", "TinyStories-656K"):
        return metadata_of_gguf(data / "gguf" / f"{name}-f32.gguf")
    if name == "qwen2":
        folder = data / "tokenizers" / "qwen2"
        vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
        merges = [
            line
            for line in (folder / "merges.txt").read_text("utf-8").split("\n")
            if line and not line.startswith("#version")
        ]
        control = {text: len(vocab) + i for i, text in enumerate(("<|endoftext|>", "<|im_start|>", "<|im_end|>"))}
        ids = {
            "bos_token_id": control["<|endoftext|>"],
            "eos_token_id": control["<|im_end|>"],
            "add_bos_token": False,
        }
        return metadata_of_bpe(vocab, merges, "qwen2", control, **ids)
    assert name == "smollm"
    folder = data / "tokenizers" / "smollm-135m-instruct"
    file = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    control = {t["content"]: t["id"] for t in file["added_tokens"]}
    template = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))["chat_template"]
    meta = metadata_of_bpe(
        file["model"]["vocab"], file["model"]["merges"], "smollm", control, bos_token_id=1, eos_token_id=2
    )
    return meta | {"tokenizer.chat_template": template}


def small_vocabulary(kind: str) -> Metadata:
    """A small vocabulary of the project's own: "llama" (SentencePiece) or byte-level BPE under the
    pre-tokenizer `kind`."""
    meta: Metadata = dict(fixture(kind)["metadata"])
    for key, dtype in (("scores", np.float32), ("token_type", np.int32)):
        if f"tokenizer.ggml.{key}" in meta:
            meta[f"tokenizer.ggml.{key}"] = np.array(meta[f"tokenizer.ggml.{key}"], dtype)
    return meta if kind == "llama" else meta | {"tokenizer.ggml.pre": kind}


@cache
def fixture(kind: str) -> Any:
    """What tools/record_tokenizer_fixtures.py wrote: {"metadata": ..., "cases": [{"text", "ids": {kind:
    [plain, special]}}]}."""
    return json.loads((FIXTURES / f"{'sentencepiece' if kind == 'llama' else 'byte_level'}.json").read_text("utf-8"))


def write_vocabulary(path: Path, meta: Metadata) -> None:
    """A GGUF file that holds a vocabulary and no tensors, with just enough of a model for llama.cpp's
    vocab_only mode."""
    writer = gguf.GGUFWriter(path, "llama")
    for add in (
        writer.add_context_length,
        writer.add_embedding_length,
        writer.add_block_count,
        writer.add_head_count,
    ):
        add(1)
    writer.add_feed_forward_length(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in meta.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            if key != "general.architecture":
                writer.add_string(key, value)
        elif isinstance(value, (list, np.ndarray)):
            writer.add_array(key, value if isinstance(value, list) else value.tolist())
        elif isinstance(value, (int, np.integer)):
            writer.add_uint32(key, int(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def words_of(meta: Metadata) -> list[str]:
    """Texts to build strings of: the vocabulary's own tokens as text, special ones included."""
    tokens = meta["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    return [t.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n") for t in tokens if t]


def special_words_of(meta: Metadata) -> list[str]:
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list) and isinstance(types, np.ndarray)
    return [t for t, kind in zip(tokens, types, strict=True) if kind in (2, 3, 4)]
