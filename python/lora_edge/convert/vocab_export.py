"""The tokenizer metadata of GGUF -> tokenizer.json and its companions: `vocab.py` read backwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..pretokenizers import byte_level_splits, ignores_merges, normalizes, sentencepiece_merges
from ..vocab import CONTROL, MODEL, SPACE, TEMPLATE, UNKNOWN, UNUSED, USER_DEFINED, Vocab
from .generation import generation_config

Files = dict[str, dict[str, Any] | str]


def tokenizer_files(meta: Mapping[str, Any], n_vocab: int) -> tuple[Files, dict[str, Any]]:
    """(files of the folder by name, the special ids of config.json); both empty for a file without a tokenizer.

    ValueError: the tokenizer is of a kind that is not known, or has another number of tokens than the model.
    """
    if meta.get(MODEL) in (None, "no_vocab", "none"):
        return {}, {}
    vocab = Vocab.from_metadata(meta)
    if len(vocab.tokens) != n_vocab:
        raise ValueError(f"[export] the tokenizer has {len(vocab.tokens)} tokens, the model {n_vocab}")
    ids = _special_ids(meta, vocab)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, vocab) for i in _added_ids(vocab)],
        **(_byte_level(vocab) if vocab.model == "gpt2" else _sentencepiece(vocab)),
        "post_processor": _ends(vocab),
    }
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{f"{name}_token": vocab.tokens[i] for name, i in ids.items() if name in ("bos", "eos", "pad", "unk")},
    }
    template = _chat_template(meta)
    if template is not None:
        settings["chat_template"] = template
    stops = list(dict.fromkeys(ids[name] for name in ("eos", "eot", "eom") if name in ids))
    config: dict[str, Any] = {f"{name}_token_id": ids[name] for name in ("bos", "pad") if name in ids}
    if stops:
        config["eos_token_id"] = stops[0] if len(stops) == 1 else stops
    files: Files = {"tokenizer.json": tokenizer, "tokenizer_config.json": settings}
    return {**files, "generation_config.json": {**config, **generation_config(meta)}}, config


def _special_ids(meta: Mapping[str, Any], vocab: Vocab) -> dict[str, int]:
    names = {"eot": "eot", "eom": "eom", "pad": "padding", "unk": "unknown"}
    found = {name: meta.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    found |= {"bos": vocab.bos_id, "eos": vocab.eos_id}
    return {name: int(i) for name, i in found.items() if i is not None and 0 <= int(i) < len(vocab.tokens)}


def _is_hole(i: int, vocab: Vocab) -> bool:
    """Whether this id has no token, as the embedding has more rows than the tokenizer tokens."""
    return vocab.types[i] == UNUSED and vocab.tokens[i] == f"[PAD{i}]"


def _added_ids(vocab: Vocab) -> list[int]:
    return [i for i, kind in enumerate(vocab.types) if kind in (CONTROL, USER_DEFINED, UNKNOWN)]


def _added(i: int, vocab: Vocab) -> dict[str, Any]:
    return {
        "id": i, "content": vocab.tokens[i], "single_word": False, "lstrip": False,
        "rstrip": vocab.eats_space_after(i), "normalized": False,
        "special": vocab.types[i] != USER_DEFINED,
    }  # fmt: skip


def _bpe(vocab: Vocab, merges: list[tuple[str, str]], **settings: Any) -> dict[str, Any]:
    return {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **settings,
        "vocab": {text: i for i, text in enumerate(vocab.tokens) if not _is_hole(i, vocab)},
        "merges": [list(pair) for pair in merges],
    }  # fmt: skip


def _byte_level(vocab: Vocab) -> dict[str, Any]:
    splits = byte_level_splits(vocab)
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": not splits}
    if splits == ["digits"]:
        splits, last["use_regex"] = [], True
        steps: list[dict[str, Any]] = [{"type": "Digits", "individual_digits": True}, last]
    else:
        steps = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in splits
        ] + [last]
    merges = [(left, right) for left, right in (line.split(" ", 1) for line in vocab.merges)]
    return {
        "normalizer": {"type": "NFC"} if normalizes(vocab) else None,
        "pre_tokenizer": steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": _bpe(vocab, merges, ignore_merges=ignores_merges(vocab)),
    }


def _sentencepiece(vocab: Vocab) -> dict[str, Any]:
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoder: list[dict[str, Any]] = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    normalizer: dict[str, Any] = replace
    if vocab.add_space_prefix:
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]}
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = vocab.tokens[vocab.unk_id] if vocab.unk_id is not None else None
    return {
        "normalizer": normalizer,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoder},
        "model": _bpe(vocab, sentencepiece_merges(vocab), unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }


def _ends(vocab: Vocab) -> dict[str, Any] | None:
    """What puts BOS before and EOS after a text."""
    if not vocab.add_bos and not vocab.add_eos:
        if vocab.model != "gpt2":
            return None
        return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    first = [vocab.bos_id] if vocab.add_bos and vocab.bos_id is not None else []
    last = [vocab.eos_id] if vocab.add_eos and vocab.eos_id is not None else []

    def special(token: int, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": vocab.tokens[token], "type_id": segment}}

    def text(name: str, segment: int) -> list[dict[str, Any]]:
        sequence = {"Sequence": {"id": name, "type_id": segment}}
        return [*(special(t, segment) for t in first), sequence, *(special(t, segment) for t in last)]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": text("A", 0) + text("B", 1),
        "special_tokens": {
            vocab.tokens[t]: {"id": vocab.tokens[t], "ids": [t], "tokens": [vocab.tokens[t]]} for t in first + last
        },
    }


def _chat_template(meta: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    """A text, or several by name where there are several."""
    named = [name for name in meta.get("tokenizer.chat_templates", []) if f"{TEMPLATE}.{name}" in meta]
    plain = meta.get(TEMPLATE)
    if not named:
        return plain
    listed = [{"name": "default", "template": plain}] if plain is not None else []
    return listed + [{"name": name, "template": meta[f"{TEMPLATE}.{name}"]} for name in named]
