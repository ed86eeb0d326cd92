"""A folder whose tokenizer is a SentencePiece model alone, without tokenizer.json -> the tokenizer metadata of GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..vocab import CONTROL, SPACE, UNKNOWN, USER_DEFINED
from .fields import optional_json
from .sentencepiece_model import read_sentencepiece
from .token_lists import BOOL, F32, I32, STRING, Metadata, texts_and_types


def slow_tokenizer(folder: Path, settings: dict[str, Any], n_vocab: int) -> tuple[dict[str, Any], Metadata]:
    """(what `vocab.py` reads of a tokenizer.json, metadata) of a tokenizer.model with the tokens that
    tokenizer_config.json or added_tokens.json adds; BOS is put in front unless the settings say otherwise."""
    source = read_sentencepiece(folder / "tokenizer.model")
    ids = {text: i for i, text in enumerate(source.pieces)}
    added = [{"id": i, "content": text} for text, i in optional_json(folder / "added_tokens.json").items()]
    added += [{**entry, "id": int(i)} for i, entry in settings.get("added_tokens_decoder", {}).items()]
    control = {i for i, kind in enumerate(source.types) if kind == CONTROL}
    by_id = {entry["id"]: {"special": entry["id"] in control, **entry} for entry in added}
    unknown = next((text for text, kind in zip(source.pieces, source.types, strict=True) if kind == UNKNOWN), None)
    tokenizer: dict[str, Any] = {"model": {"vocab": ids, "unk_token": unknown}, "added_tokens": list(by_id.values())}
    texts, types = texts_and_types(tokenizer, n_vocab, "llama")
    for i, kind in enumerate(source.types):
        if i not in by_id:
            types[i] = kind
            texts[i] = texts[i].replace(SPACE, " ") if kind == USER_DEFINED else texts[i]
    single: list[dict[str, Any]] = [{"Sequence": {}}]
    special = {}
    for name, usual, at in (("bos", True, 0), ("eos", False, 1)):
        text = settings.get(f"{name}_token")
        text = text["content"] if isinstance(text, dict) else text
        if settings.get(f"add_{name}_token", usual) is True and text in texts:
            single.insert(at * len(single), {"SpecialToken": {"id": text}})
            special[text] = {"ids": [texts.index(text)]}
    tokenizer["post_processor"] = {"type": "TemplateProcessing", "single": single, "special_tokens": special}
    return tokenizer, {
        "tokenizer.ggml.model": ("llama", STRING),
        "tokenizer.ggml.pre": ("default", STRING),
        "tokenizer.ggml.tokens": (texts, STRING),
        "tokenizer.ggml.token_type": (types, I32),
        "tokenizer.ggml.scores": (source.scores + [-1000.0] * (n_vocab - len(ids)), F32),
        "tokenizer.ggml.add_space_prefix": (source.adds_prefix, BOOL),
    }
