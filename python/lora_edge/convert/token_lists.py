"""The lists of tokens that GGUF keeps: text and type of each id."""

from __future__ import annotations

import re
from typing import Any

import gguf

from ..vocab import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED

U32, F32, I32 = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.INT32
STRING, BOOL = gguf.GGUFValueType.STRING, gguf.GGUFValueType.BOOL
Metadata = dict[str, tuple[Any, gguf.GGUFValueType]]


def texts_and_types(tokenizer: dict[str, Any], n_vocab: int, kind: str) -> tuple[list[str], list[int]]:
    """Text and type of each of n_vocab ids; ids without a token become unused [PADi]."""
    by_id: dict[int, tuple[str, int]] = {}
    unknown = tokenizer["model"].get("unk_token")
    for text, token in tokenizer["model"]["vocab"].items():
        is_byte = kind == "llama" and re.fullmatch(r"<0x[0-9A-F]{2}>", text)
        by_id[token] = (text, BYTE if is_byte else UNKNOWN if text == unknown else NORMAL)
    for added in tokenizer.get("added_tokens") or []:
        text = added["content"]
        if text == unknown:
            by_id[added["id"]] = (text, UNKNOWN)
        elif added["special"]:
            by_id[added["id"]] = (text, CONTROL)
        else:  # these are looked for in the text itself, where a space is a space
            by_id[added["id"]] = (text.replace(SPACE, " ") if kind == "llama" else text, USER_DEFINED)
    last = max(by_id, default=-1)
    if last >= n_vocab or min(by_id, default=0) < 0:
        raise ValueError(f"the token {by_id[last][0][:40]!r} has the id {last}, the model has {n_vocab} tokens")
    rows = [by_id.get(i, (f"[PAD{i}]", UNUSED)) for i in range(n_vocab)]
    texts = [text for text, _ in rows]
    if len(set(texts)) != len(texts):
        raise ValueError("two ids have the same text")
    return texts, [kind for _, kind in rows]
