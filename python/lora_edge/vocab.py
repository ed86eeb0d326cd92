"""The vocabulary of a GGUF file, checked: token texts, types, scores, special ids and the rules for BOS and
EOS.

The keys are those of the GGUF specification (`tokenizer.ggml.*`); the defaults and the lists of texts that
mark a token as control or as an end of generation are llama.cpp's (`src/llama-vocab.cpp`), because they are
not in the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MODEL = "tokenizer.ggml.model"
PRE = "tokenizer.ggml.pre"
TOKENS = "tokenizer.ggml.tokens"
SCORES = "tokenizer.ggml.scores"
TYPES = "tokenizer.ggml.token_type"
MERGES = "tokenizer.ggml.merges"
TEMPLATE = "tokenizer.chat_template"

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of tokens
SPACE = "\u2581"  # SentencePiece's mark for a space
MAX_TOKENS = 1 << 20

_END_WORDS = """
<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|endoftext|> <|eom_id|> <|end_of_text|> <turn|>
<end_of_turn> <end_of_utterance> <eos> </s> <EOT> _<EOT> [EOT] [EOS] <PAD> [PAD] <|fim_pad|> <fim-pad>
<fim_pad> <|fim_repo|> <fim-repo> <|repo_name|> <reponame> <REPO> <|file_sep|>
"""
_FILL_IN_WORDS = """
<|fim_prefix|> <fim-prefix> <fim_prefix> <PRE> ▁<PRE> <|code_prefix|> <|fim_suffix|> <fim-suffix>
<fim_suffix> <SUF> ▁<SUF> <|code_suffix|> <|fim_middle|> <fim-middle> <fim_middle>
<MID> ▁<MID> <|code_middle|>
"""
END_TEXTS = frozenset(_END_WORDS.split())
_CONTROL_TEXTS = END_TEXTS | frozenset(_FILL_IN_WORDS.split())
_BYTE_TEXT = re.compile("<0x[0-9A-F]{2}>")
PHI3_KEEPS_SPACE = frozenset({"<unk>", "<s>", "<|endoftext|>"})


@dataclass(frozen=True)
class Vocab:
    """One vocabulary. `model` is "llama" (SentencePiece), "gpt2" (byte-level BPE) or "bert" (WordPiece); `types` are
    GGUF token types, with tokens that look like control tokens already marked as such; `scores` are llama's and
    `merges` gpt2's, empty for the others."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    sep_id: int | None
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    strips_after_special: bool
    stop_ids: frozenset[int]
    chat_template: str | None

    @classmethod
    def from_metadata(cls, meta: Mapping[str, object]) -> Vocab:
        """Reads and checks `meta`. Raises ValueError, naming the key, for anything missing, of a wrong type
        or length, or out of range."""
        model = _string(meta, MODEL)
        if model not in ("llama", "gpt2", "bert"):
            raise bad_entry(
                MODEL,
                f"'{_clip(model or '')}' is not supported; known: llama, gpt2, bert" if model else "is missing",
            )
        spm = model == "llama"
        pre = _string(meta, PRE) or "default"
        tokens = _strings(meta, TOKENS)
        n = len(tokens)
        if not 0 < n <= MAX_TOKENS:
            raise bad_entry(TOKENS, f"holds {n} tokens; 1 to {MAX_TOKENS} are allowed")
        if len(set(tokens)) != n:
            raise bad_entry(TOKENS, f"the text {_duplicate(tokens)} occurs twice")
        types = _types(meta, n, required=spm)
        scores = _scores(meta, n) if spm else []
        merges = _strings(meta, MERGES) if model == "gpt2" else []

        for i, (text, kind) in enumerate(zip(tokens, types, strict=True)):
            if kind == BYTE and not _BYTE_TEXT.fullmatch(text):
                raise bad_entry(TOKENS, f"token {i} is of type byte, but its text is {_clip(text)!r}, not '<0x0A>'")
        end_ids = set()
        for text in _CONTROL_TEXTS.intersection(tokens):
            token = tokens.index(text)
            if types[token] == NORMAL and not text.startswith("<|"):
                continue  # a word like any other: </s> is HTML in Qwen's vocabulary
            types[token] = CONTROL
            if text in END_TEXTS:
                end_ids.add(token)

        def special_id(name: str, default: int | None = None) -> int | None:
            return _token_id(meta, f"tokenizer.ggml.{name}_token_id", n, default)

        bos, eos, unk = (
            special_id("bos", 1 if spm else None),
            special_id("eos", 2 if spm else None),
            special_id("unknown"),
        )
        end_ids.update(i for i in (eos, special_id("eot"), special_id("eom")) if i is not None)
        add_bos = _flag(meta, "tokenizer.ggml.add_bos_token", bos is not None and (spm or pre in LLAMA3_PRE))
        add_eos = _flag(meta, "tokenizer.ggml.add_eos_token", False)
        for add, token_id, name in ((add_bos, bos, "bos"), (add_eos, eos, "eos")):
            if add and token_id is None:
                raise bad_entry(
                    f"tokenizer.ggml.{name}_token_id",
                    f"is missing, but tokenizer.ggml.add_{name}_token is true",
                )
        name = _string(meta, "general.name") or ""
        return cls(
            model=model, pre=pre, tokens=tokens, types=types, scores=scores, merges=merges,
            bos_id=bos, eos_id=eos, unk_id=0 if spm and unk is None else unk, sep_id=special_id("seperator"),
            add_bos=add_bos, add_eos=add_eos,
            add_space_prefix=_flag(meta, "tokenizer.ggml.add_space_prefix", spm),
            strips_after_special="phi-3" in name.lower() or "phi3" in name.lower(),
            stop_ids=frozenset(end_ids), chat_template=_string(meta, TEMPLATE) or None,
        )  # fmt: skip

    @cached_property
    def parsed(self) -> tuple[list[int], list[int]]:
        """Ids found in text before it is tokenised, longest text first: (user-defined ones, these and control
        and unknown)."""
        ids = [i for i, t in enumerate(self.types) if t in (UNKNOWN, CONTROL, USER_DEFINED) and self.tokens[i]]
        ids.sort(key=lambda i: -len(self.tokens[i].encode("utf-8", "surrogateescape")))
        return [i for i in ids if self.types[i] == USER_DEFINED], ids

    def eats_space_after(self, token: int) -> bool:
        """Whether white space after this special token belongs to it (Phi-3; llama.cpp goes by the model's
        name)."""
        return self.strips_after_special and self.tokens[token] not in PHI3_KEEPS_SPACE


LLAMA3_PRE = frozenset({"llama-bpe", "llama3", "llama-v3"})


def bad_entry(key: str, what: str) -> ValueError:
    """What to raise for the metadata entry `key`."""
    return ValueError(f"[tokenizer] {key} {what}")


def _clip(text: str) -> str:
    return (text if len(text) <= 40 else text[:40] + "…").encode("utf-8", "replace").decode()


def _duplicate(tokens: list[str]) -> str:
    return repr(_clip(Counter(tokens).most_common(1)[0][0]))


def _string(meta: Mapping[str, object], key: str) -> str | None:
    value = meta.get(key)
    if value is not None and not isinstance(value, str):
        raise bad_entry(key, f"must be a string, not {type(value).__name__}")
    return value


def _strings(meta: Mapping[str, object], key: str) -> list[str]:
    value = meta.get(key)
    if value is None:
        raise bad_entry(key, "is missing")
    if not isinstance(value, list) or not all(isinstance(s, str) for s in value):
        raise bad_entry(key, "must be an array of strings")
    return value


def _numbers(meta: Mapping[str, object], key: str, n: int, kinds: str) -> np.ndarray:
    """The array under `key` [n], its dtype kind one of `kinds`."""
    if key not in meta:
        raise bad_entry(key, "is missing")
    found = meta[key]
    if isinstance(found, (list, tuple)) and all(isinstance(v, (int, float)) for v in found):
        found = np.array(found)
    # A list of strings is no array yet: each would be padded to the longest.
    value = found if isinstance(found, np.ndarray) else np.empty((), "O")
    if value.ndim != 1 or value.dtype.kind not in kinds:
        raise bad_entry(key, f"must be an array of {'numbers' if 'f' in kinds else 'integers'}")
    if len(value) != n:
        raise bad_entry(key, f"has {len(value)} entries, but {TOKENS} has {n}")
    return value


def _types(meta: Mapping[str, object], n: int, required: bool) -> list[int]:
    if TYPES not in meta and not required:
        return [NORMAL] * n
    types = _numbers(meta, TYPES, n, "iu")
    if types.min() < 0 or types.max() > BYTE:
        at = int(np.argmax((types < 0) | (types > BYTE)))
        raise bad_entry(TYPES, f"token {at} has type {int(types[at])}; known are 0 to {BYTE}")
    return [int(t) for t in types.tolist()]


def _scores(meta: Mapping[str, object], n: int) -> list[float]:
    scores = _numbers(meta, SCORES, n, "iuf")
    if np.isnan(scores).any():
        raise bad_entry(SCORES, f"token {int(np.argmax(np.isnan(scores)))} has score NaN")
    return [float(s) for s in scores.tolist()]


def _token_id(meta: Mapping[str, object], key: str, n: int, default: int | None) -> int | None:
    value = meta.get(key)
    if value is None:
        return default if default is not None and default < n else None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise bad_entry(key, f"must be an integer, not {type(value).__name__}")
    if not 0 <= value < n:
        raise bad_entry(key, f"is {value}, but there are {n} tokens")
    return int(value)


def _flag(meta: Mapping[str, object], key: str, default: bool) -> bool:
    value = meta.get(key, default)
    if not isinstance(value, (bool, np.bool_)):
        raise bad_entry(key, f"must be true or false, not {type(value).__name__}")
    return bool(value)
