"""tokenizer.json and its companions -> the tokenizer metadata of GGUF.

Two kinds are told apart by structure: byte-level BPE ("gpt2", with one of the pre-tokenizers in `_PRE`) and
SentencePiece-like BPE ("llama", whose merges become scores).  A tokenizer that would not give the same ids from its
metadata is a ValueError.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..vocab import END_TEXTS, NORMAL, PHI3_KEEPS_SPACE, SPACE
from .fields import optional_json, read_json
from .generation import sampling_metadata
from .slow_tokenizer import slow_tokenizer
from .token_lists import BOOL, F32, I32, STRING, U32, Metadata, texts_and_types

# The words of cl100k and its relatives; only the length of a run of digits differs.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {_WORDS.replace("DIGITS", r"\p{N}{1,3}"): "three digits", _WORDS.replace("DIGITS", r"\p{N}"): "one digit"}
# (how words are cut, normalizer, whether a word that is a token stays whole whatever the merges) -> tokenizer.ggml.pre
_PRE = {
    ("plain", (), False): "gpt-2",
    ("plain", ("NFC",), False): "olmo",
    ("digits", (), False): "smollm",
    ("one digit", ("NFC",), False): "qwen2",
    ("one digit", (), False): "stablelm2",
    ("three digits", (), False): "dbrx",
    ("three digits", (), True): "llama-bpe",
}


def read_vocab(folder: Path, n_vocab: int, config: dict[str, Any], name: str) -> Metadata:
    """Metadata `tokenizer.*` for a model of n_vocab tokens, and a `general.name` other than `name` where the tokenizer
    asks for one; empty for a folder without any tokenizer."""
    path, settings = folder / "tokenizer.json", optional_json(folder / "tokenizer_config.json")
    generation = optional_json(folder / "generation_config.json")
    if not path.is_file() and (folder / "tokenizer.model").is_file():
        path = folder / "tokenizer.model"
    elif not path.is_file():
        if (folder / "vocab.json").is_file():
            raise ValueError(f"[convert] {folder} has vocab.json, but no tokenizer.json: save it as a fast tokenizer")
        return {}
    try:
        if path.name == "tokenizer.model":
            settings = {"bos_token": "<s>", "eos_token": "</s>", **settings}
            tokenizer, meta = slow_tokenizer(folder, settings, n_vocab)
        else:
            tokenizer = read_json(path)
            meta = _tokens(tokenizer, n_vocab)
        return {
            **meta,
            **_special_ids(tokenizer, settings, {**config, **generation}),
            **sampling_metadata(generation, "generation_config.json"),
            **_chat_template(folder, settings),
            **_telling_name(tokenizer, name),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"[convert] {path} is not laid out as a tokenizer: {error!r}") from error
    except ValueError as error:
        raise error if str(error).startswith("[convert]") else ValueError(f"[convert] {path}: {error}") from None


def _tokens(tokenizer: dict[str, Any], n_vocab: int) -> Metadata:
    model = tokenizer["model"]
    if model.get("type", "BPE") != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ValueError(f"the model {model.get('type')!r} is not supported; plain BPE is")
    kind, pre, prefix = _kind(tokenizer)
    merges = [_merge(entry) for entry in model["merges"]]
    texts, types = texts_and_types(tokenizer, n_vocab, kind)
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
        # gemma cuts at spaces when there are none any more
        nothing = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        if cuts in ([], [nothing]) and steps in ([{"type": "Prepend", "prepend": SPACE}, replace], [replace]):
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
            words = {1: "plain", 2: "digits" if cuts[0] == digits else ""}.get(len(cuts), "")
        elif len(cuts) == 2 and cuts[0]["type"] == "Split" and _keeps_all(cuts[0]):
            words = _SPLITS.get(cuts[0]["pattern"].get("Regex"), "")
        else:
            words = ""
        found = _PRE.get((words, tuple(normal), whole_words))
        if found:
            return "gpt2", found, False
    raise ValueError(
        f"this tokenizer (normalizer {[s['type'] for s in steps]}, pre-tokenizer {names}) is not supported; "
        "byte-level BPE as in GPT-2, SmolLM, Llama 3 and Qwen2, and SentencePiece BPE are"
    )


def _keeps_all(cut: dict[str, Any]) -> bool:
    """Whether a Split makes its matches the words; the patterns match every character."""
    return (cut.get("behavior"), cut.get("invert", False)) in (("Isolated", False), ("Removed", True))


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


def _scores(texts: list[str], types: list[int], merges: list[tuple[str, str]]) -> list[float]:
    """SentencePiece scores: minus the token's rank among those that merges make, by its first merge.  What no merge
    makes comes last."""
    ranks = {text: rank for rank, text in enumerate(dict.fromkeys(left + right for left, right in merges))}
    last = float(-max(len(ranks), 10_000))
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
    texts = {i: text for text, i in ids.items()}
    unknown_ends = [texts[i] for i in eos[3:] if texts[i] not in END_TEXTS]
    if unknown_ends:
        raise ValueError(f"{len(eos)} tokens end a generation, a GGUF names three: {unknown_ends[0][:40]!r} would not")
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


def _telling_name(tokenizer: dict[str, Any], name: str) -> Metadata:
    """Where special tokens eat the space after them as Phi-3's do, llama.cpp knows it by the model's name alone."""
    added = {entry["content"]: entry.get("rstrip", False) for entry in tokenizer.get("added_tokens") or []}
    eats = [text for text, rstrip in added.items() if rstrip]
    if not eats or not added.keys() >= PHI3_KEEPS_SPACE or PHI3_KEEPS_SPACE & set(eats):
        return {}
    told = any(word in name.lower() for word in ("phi-3", "phi3"))
    return {"general.name": (name if told else f"{name} (phi-3)", STRING)}


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
        if step["type"] == "RobertaProcessing" and ([step["cls"][1]], [step["sep"][1]]) == (bos, eos):
            add_bos = add_eos = True
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
    """chat_template.jinja and additional_chat_templates/NAME.jinja, else tokenizer_config.json's; of several named
    ones, "default" and the others by name."""
    file, more = folder / "chat_template.jinja", sorted((folder / "additional_chat_templates").glob("*.jinja"))
    files = {"default": file, **{path.stem: path for path in more}}
    template = [{"name": name, "template": f.read_text(encoding="utf-8")} for name, f in files.items() if f.is_file()]
    template = template or settings.get("chat_template") or []
    if isinstance(template, str):
        template = [{"name": "default", "template": template}]
    meta: Metadata = {}
    for entry in template:
        key = "tokenizer.chat_template" + ("" if entry["name"] == "default" else "." + entry["name"])
        meta[key] = (entry["template"], STRING)
    named = [entry["name"] for entry in template if entry["name"] != "default"]
    if named:
        meta["tokenizer.chat_templates"] = (named, STRING)
    return meta
