"""Text, or pairs of texts, to the ids of an encoder: [CLS] text [SEP], or [CLS] text [SEP] other [SEP].

A file may hold its tokenizer as the `tokenizers` library writes it (`tokenizer.huggingface.json`, of the GGUF
specification): that is exact, so it goes first. Without it, WordPiece (Schuster & Nakajima 2012) is built from the
tokens of model "bert", lower-cased and without accents as llama.cpp does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .vocab import MODEL, SPACE, Vocab, bad_entry

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HfTokenizer

HF_JSON = "tokenizer.huggingface.json"
WORD = SPACE  # before a token that begins a word, in files of model "bert"; "##" before those that don't is left out

Made = TypeVar("Made")


class Encoded(NamedTuple):
    """Ids of a text and the part each belongs to: 0 the text, 1 the other of a pair."""

    ids: list[int]
    parts: list[int]


class EncoderTokenizer:
    """The tokenizer of an encoder's file. Immutable, and usable from several threads."""

    def __init__(self, tokenizer: HfTokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.vocab_size: int = tokenizer.get_vocab_size()

    @classmethod
    def from_metadata(cls, meta: Mapping[str, object]) -> EncoderTokenizer:
        """From a file's `tokenizer.*` entries. ValueError names the key of what is missing or malformed."""
        text = meta.get(HF_JSON)
        if isinstance(text, str):
            return cls(_from_json(text))
        if meta.get(MODEL) != "bert":
            raise bad_entry(MODEL, f"is {str(meta.get(MODEL))[:40]!r}: an encoder needs 'bert', or {HF_JSON}")
        vocab = Vocab.from_metadata(meta)
        return cls(_guarded("tokenizer.ggml.tokens", lambda: _word_piece(vocab)))

    def encode(self, text: str, other: str | None = None) -> Encoded:
        """Ids of a text, or of a pair, with the special tokens around them. ValueError: a lone surrogate."""
        for each in (text, other or ""):
            try:
                each.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"[tokenizer] a lone surrogate at position {error.start}; this is no text") from None
        made = _guarded(HF_JSON, lambda: self._tokenizer.encode(text, other))
        return Encoded(list(made.ids), list(made.type_ids))

    def token(self, i: int) -> str | None:
        """The text of an id; None if it has none."""
        return self._tokenizer.id_to_token(i)

    def to_json(self) -> str:
        """As the library writes it."""
        return self._tokenizer.to_str()


def _from_json(text: str) -> HfTokenizer:
    from tokenizers import Tokenizer

    tokenizer = _guarded(HF_JSON, lambda: Tokenizer.from_str(text))
    if tokenizer.post_processor is not None:
        _check_templates(json.loads(tokenizer.post_processor.__getstate__()))
    return tokenizer


def _check_templates(part: object) -> None:
    """ValueError: a template around the texts names a special token that has no ids; the library would panic there."""
    if isinstance(part, list):
        for each in part:
            _check_templates(each)
    elif isinstance(part, dict):
        _check_templates(part.get("processors"))
        pieces = [*(part.get("single") or []), *(part.get("pair") or [])]
        names = {piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece}
        missing = sorted(names - set(part.get("special_tokens") or ()))
        if missing:
            raise bad_entry(HF_JSON, f"has a template with {missing[0][:40]!r}, to which it gives no ids")


def _guarded(key: str, call: Callable[[], Made]) -> Made:
    """What the library makes. ValueError names the entry that it can't work with: the library raises plain exceptions,
    or panics, which is none of Python's exceptions."""
    try:
        return call()
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise bad_entry(key, f"can't be read: {' '.join(str(error).split())[:200]}") from None
        raise


def _word_piece(vocab: Vocab) -> HfTokenizer:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    def plain(text: str) -> str:
        special = text.startswith("[") and text.endswith("]")
        return text if special else text[1:] if text.startswith(WORD) else "##" + text

    ids = {plain(text): i for i, text in enumerate(vocab.tokens)}
    ends: list[tuple[str, int]] = []
    for name, found in (("[CLS]", vocab.bos_id), ("[SEP]", vocab.sep_id)):
        i = ids.get(name) if found is None else found
        if i is None:
            raise bad_entry("tokenizer.ggml.tokens", f"has no {name}")
        ends.append((plain(vocab.tokens[i]), i))
    unknown = vocab.unk_id if vocab.unk_id is not None else ids.get("[UNK]", 0)
    built = Tokenizer(models.WordPiece(vocab=ids, unk_token=plain(vocab.tokens[unknown])))
    built.normalizer = normalizers.BertNormalizer(lowercase=True)
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    (cls, _), (sep, _) = ends
    built.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=ends
    )
    return built
