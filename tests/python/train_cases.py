"""Small tokenizers and folders of training data for the tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from chat_cases import CHATML
from lora_edge.encoder_tokenizer import EncoderTokenizer
from lora_edge.tokenizer import Tokenizer
from lora_edge.train.data import Example
from tokenizer_cases import small_vocabulary

KINDS = ("llama", "qwen2")  # SentencePiece, which puts BOS in front; byte-level BPE, which does not


def small_tokenizer(kind: str, template: str | None = CHATML) -> Tokenizer:
    meta = small_vocabulary(kind)
    return Tokenizer.from_metadata(meta | ({"tokenizer.chat_template": template} if template else {}))


def word_piece() -> EncoderTokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁a", "▁b", "▁c", "▁d", "▁e"]
    return EncoderTokenizer.from_metadata({"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": words})


def write_jsonl(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def shown(tokenizer: Tokenizer, example: Example) -> str:
    """The example's text, with what is learned between brackets."""
    out, inside = "", False
    for token, learned in zip(example.ids.tolist(), example.learn.tolist()):
        if learned != inside:
            out += "[" if learned else "]"
        inside = learned
        out += tokenizer.token_text(token)
    return out + ("]" if inside else "")
