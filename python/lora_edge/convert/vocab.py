"""tokenizer.json and its companions -> the tokenizer metadata of GGUF.

Two kinds are told apart by structure: byte-level BPE ("gpt2", with one of the pre-tokenizers of gpt-2,
smollm, llama-bpe and qwen2) and SentencePiece-like BPE ("llama", whose merges become scores).  A tokenizer
that would not give the same ids from its metadata is a ValueError.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf

from .hparams import read_json

U32, F32, I32 = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.INT32
STRING, BOOL = gguf.GGUFValueType.STRING, gguf.GGUFValueType.BOOL
Metadata = dict[str, tuple[Any, gguf.GGUFValueType]]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"  # SentencePiece's mark for a space

# The words of cl100k and its relatives; only the length of a run of digits differs.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {_WORDS.replace("DIGITS", r"\p{N}{1,3}"): "llama-bpe", _WORDS.replace("DIGITS", r"\p{N}"): "qwen2"}


def read_vocab(folder: Path, n_vocab: int, config: dict[str, Any]) -> Metadata:
    """Metadata `tokenizer.*` for a model of n_vocab tokens; empty for a folder without any tokenizer."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        for other in ("tokenizer.model", "vocab.json"):
            if (folder / other).is_file():
                raise ValueError(
                    f"[convert] {folder} has {other} but no tokenizer.json; save it as a fast tokenizer first"
                )
        return {}
    tokenizer, settings = read_json(path), _optional(folder / "tokenizer_config.json")
    try:
        return {
            **_tokens(tokenizer, n_vocab),
            **_special_ids(tokenizer, settings, {**config, **_optional(folder / "generation_config.json")}),
            **_chat_template(folder, settings),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"[convert] {path} is not laid out as a tokenizer.json: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"[convert] {path}: {error}") from None


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _tokens(tokenizer: dict[str, Any], n_vocab: int) -> Metadata:
    model = tokenizer["model"]
    if model.get("type", "BPE") != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ValueError(f"the model {model.get('type')!r} is not supported; plain BPE is")
    kind, pre, prefix = _kind(tokenizer)
    merges = [_merge(entry) for entry in model["merges"]]
    texts, types = _texts_and_types(tokenizer, n_vocab, kind)
    meta: Metadata = {
        "tokenizer.ggml.model": (kind, STRING),
        "tokenizer.ggml.pre": (pre, STRING),
        "tokenizer.ggml.tokens": (texts, STRING),
        "tokenizer.ggml.token_type": (types, I32),
    }
    if kind == "gpt2":
        meta["tokenizer.ggml.merges"] = ([" ".join(pair) for pair in merges], STRING)
    else:
        meta["tokenizer.ggml.scores"] = (_scores(texts, types, merges), F32)
        meta["tokenizer.ggml.add_space_prefix"] = (prefix, BOOL)
    return meta


def _kind(tokenizer: dict[str, Any]) -> tuple[str, str, bool]:
    """(model, pre, whether text gets a leading space), from the normalizer and the pre-tokenizer."""
    model, steps, cuts = tokenizer["model"], _flat(tokenizer, "normalizer"), _flat(tokenizer, "pre_tokenizer")
    names = [cut["type"] for cut in cuts]
    if model.get("byte_fallback"):
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        if not cuts and steps in ([{"type": "Prepend", "prepend": SPACE}, replace], [replace]):
            return "llama", "default", len(steps) == 2
        if (
            names == ["Metaspace"]
            and not steps
            and cuts[0].get("replacement") == SPACE
            and cuts[0].get("split") is False
        ):
            return "llama", "default", cuts[0].get("prepend_scheme", "always") != "never"
    elif names and names[-1] == "ByteLevel" and not cuts[-1].get("add_prefix_space"):
        normal, whole_words = [step["type"] for step in steps], bool(model.get("ignore_merges"))
        if cuts[-1].get("use_regex", True):
            digits = {"type": "Digits", "individual_digits": True}
            found = {1: "gpt-2", 2: "smollm" if cuts[0] == digits else None}.get(len(cuts))
            if found and not normal and not whole_words:
                return "gpt2", found, False
        elif len(cuts) == 2 and cuts[0]["type"] == "Split" and cuts[0].get("behavior") == "Isolated":
            found = _SPLITS.get(cuts[0]["pattern"].get("Regex"))
            if (found, normal, whole_words) in (("llama-bpe", [], True), ("qwen2", ["NFC"], False)):
                return "gpt2", str(found), False
    raise ValueError(
        f"this tokenizer (normalizer {[s['type'] for s in steps]}, pre-tokenizer {names}) is not supported; "
        "byte-level BPE "
        "as in GPT-2, SmolLM, Llama 3 and Qwen2, and SentencePiece BPE are"
    )


def _flat(tokenizer: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or post-processor, a Sequence opened."""
    value = tokenizer.get(part)
    if value is None:
        return []
    inner = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors"}[part]
    return list(value[inner]) if value["type"] == "Sequence" else [value]


def _merge(entry: object) -> tuple[str, str]:
    pair = entry.split(" ") if isinstance(entry, str) else entry
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(p, str) and p and " " not in p for p in pair):
        raise ValueError(f"the merge {str(entry)[:60]!r} is not a pair of tokens")
    return pair[0], pair[1]


def _texts_and_types(tokenizer: dict[str, Any], n_vocab: int, kind: str) -> tuple[list[str], list[int]]:
    """Text and type of each of n_vocab ids; ids without a token become unused [PADi]."""
    by_id: dict[int, tuple[str, int]] = {}
    unknown = tokenizer["model"].get("unk_token")
    for text, token in tokenizer["model"]["vocab"].items():
        is_byte = kind == "llama" and re.fullmatch(r"<0x[0-9A-F]{2}>", text)
        by_id[token] = (text, BYTE if is_byte else UNKNOWN if text == unknown else NORMAL)
    for added in tokenizer.get("added_tokens") or []:
        text = added["content"]
        if text != unknown:
            by_id[added["id"]] = (text, CONTROL if added["special"] else USER_DEFINED)
        else:
            by_id[added["id"]] = (text, UNKNOWN)
    last = max(by_id, default=-1)
    if last >= n_vocab or min(by_id, default=0) < 0:
        raise ValueError(f"the token {by_id[last][0][:40]!r} has the id {last}, the model has {n_vocab} tokens")
    rows = [by_id.get(i, (f"[PAD{i}]", UNUSED)) for i in range(n_vocab)]
    texts = [text for text, _ in rows]
    if len(set(texts)) != len(texts):
        raise ValueError("two ids have the same text")
    return texts, [kind for _, kind in rows]


def _scores(texts: list[str], types: list[int], merges: list[tuple[str, str]]) -> list[float]:
    """SentencePiece scores: minus the rank of the first merge that makes the token.  What no merge makes
    comes last."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    last = float(-max(len(merges), 10_000))
    return [
        float(-ranks[t]) if t in ranks else (last if kind == NORMAL else 0.0)
        for t, kind in zip(texts, types, strict=True)
    ]


def _special_ids(tokenizer: dict[str, Any], settings: dict[str, Any], config: dict[str, Any]) -> Metadata:
    """Ids of BOS, EOS, end of turn, unknown and padding, and whether BOS and EOS are added.

    tokenizer_config.json goes before config.json and generation_config.json, whose further EOS ids become
    EOT and EOM.
    """
    ids = dict(tokenizer["model"]["vocab"])
    ids.update({added["content"]: added["id"] for added in tokenizer.get("added_tokens") or []})

    def find(name: str) -> list[int]:
        text = settings.get(f"{name}_token")
        text = text.get("content") if isinstance(text, dict) else text
        found = [ids[text]] if text in ids else []
        others = config.get(f"{name}_token_id")
        others = others if isinstance(others, list) else [others]
        return list(dict.fromkeys(found + [i for i in others if type(i) is int and i in ids.values()]))

    bos, eos = find("bos"), find("eos")
    add_bos, add_eos = _template_ends(tokenizer, settings, bos[:1], eos[:1])
    unknown = tokenizer["model"].get("unk_token")
    found = {
        "bos": bos[:1], "eos": eos[:1], "eot": eos[1:2], "eom": eos[2:3],
        "unknown": [ids[unknown]] if unknown in ids else [], "padding": find("pad")[:1],
    }  # fmt: skip
    meta: Metadata = {f"tokenizer.ggml.{name}_token_id": (i[0], U32) for name, i in found.items() if i}
    meta["tokenizer.ggml.add_bos_token"] = (add_bos, BOOL)
    meta["tokenizer.ggml.add_eos_token"] = (add_eos, BOOL)
    return meta


def _template_ends(
    tokenizer: dict[str, Any], settings: dict[str, Any], bos: list[int], eos: list[int]
) -> tuple[bool, bool]:
    """Whether the tokenizer puts BOS before and EOS after a text.

    The post-processor tells; for Llama's own tokenizer class add_bos_token and add_eos_token overrule it.
    """
    add_bos = add_eos = False
    for step in _flat(tokenizer, "post_processor"):
        if step["type"] == "ByteLevel":
            continue
        if step["type"] != "TemplateProcessing":
            raise ValueError(f"the post-processor {step['type']!r} is not supported")
        parts = [next(iter(part.items())) for part in step["single"]]
        names = [step["special_tokens"][v["id"]]["ids"] if kind == "SpecialToken" else "text" for kind, v in parts]
        if names not in (["text"], [bos, "text"], ["text", eos], [bos, "text", eos]):
            raise ValueError("the post-processor adds tokens other than BOS and EOS")
        add_bos, add_eos = names[0] != "text", names[-1] != "text"
    if str(settings.get("tokenizer_class")).startswith(("Llama", "CodeLlama")):
        add_bos = settings.get("add_bos_token", add_bos) is True and bool(bos)
        add_eos = settings.get("add_eos_token", add_eos) is True and bool(eos)
    return add_bos, add_eos


def _chat_template(folder: Path, settings: dict[str, Any]) -> Metadata:
    """chat_template.jinja, else tokenizer_config.json's; of several named ones, "default" and the others by
    name."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return {"tokenizer.chat_template": (file.read_text(encoding="utf-8"), STRING)}
    template = settings.get("chat_template")
    if isinstance(template, str):
        return {"tokenizer.chat_template": (template, STRING)}
    meta: Metadata = {}
    for entry in template or []:
        key = "tokenizer.chat_template" + ("" if entry["name"] == "default" else "." + entry["name"])
        meta[key] = (entry["template"], STRING)
    named = [entry["name"] for entry in template or [] if entry["name"] != "default"]
    if named:
        meta["tokenizer.chat_templates"] = (named, STRING)
    return meta
