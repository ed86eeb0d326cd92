"""From a vocabulary to an encoder of plain text, by the `tokenizers` library: SentencePiece BPE and
byte-level BPE.

Byte-level BPE (GPT-2, Radford et al. 2019): text is cut into words by a pattern, each word's UTF-8 bytes
become printable characters, and pairs are merged in the order of the list of merges. Which pattern is
`tokenizer.ggml.pre`.

SentencePiece BPE (Kudo & Richardson 2018) has no merges: of all neighbours whose concatenation is a token,
the pair that makes the token of the highest score is joined first. So every split of a token into two tokens
is a merge, ordered by that token's score. What is left and is no token becomes bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .vocab import BYTE, CONTROL, LLAMA3_PRE, MERGES, PRE, SPACE, TOKENS, UNKNOWN, Vocab

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HfTokenizer

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS: dict[str, list[str]] = {
    "default": [
        r"[\p{P}\$\+<=>\^~\|]+",
        _GPT2,
        r"\p{N}+",
        "[0-9][0-9][0-9]",
    ],  # llama.cpp's, for files that name none
    **{name: [_GPT2] for name in ("gpt-2", "olmo")},
    **{name: [r"\p{N}", _GPT2] for name in ("smollm", "refact", "starcoder")},
    **{name: [_CL100K % 1] for name in ("qwen2", "stablelm2")},
    "dbrx": [_CL100K % 3],
    **{name: [_CL100K % 3] for name in sorted(LLAMA3_PRE)},
}

_MAX_SQUARES = 10_000_000  # bound on Σ len(token)², the work of splitting every token; Llama's 32,000 need 1 million


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character of each byte: itself where printable in Latin-1, else the next one from
    U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}


def build_encoder(vocab: Vocab) -> Callable[[str, bool], list[int]]:
    """A function (text, space_prefix) -> ids for text that holds no special token. Raises ValueError, naming
    the key, if the pre-tokenizer is not known, or the merges name tokens that the vocabulary lacks."""
    if vocab.model == "gpt2":
        byte_level = _byte_level(vocab)
        return lambda text, _: list(byte_level.encode(text, add_special_tokens=False).ids)
    spm = _sentencepiece(vocab)

    def encode(text: str, space_prefix: bool) -> list[int]:
        marked = text.replace(" ", SPACE)
        return list(spm.encode(SPACE + marked if space_prefix else marked, add_special_tokens=False).ids)

    return encode


def check_pre(vocab: Vocab) -> None:
    """Raises ValueError if a byte-level vocabulary names a pre-tokenizer that is not known."""
    if vocab.model == "gpt2" and vocab.pre not in _PATTERNS:
        raise ValueError(
            f"[tokenizer] {PRE} {vocab.pre[:40]!a} is not supported; known: {', '.join(sorted(_PATTERNS))}"
        )


def byte_level_splits(vocab: Vocab) -> list[str]:
    """The patterns that cut a text into words, in turn; none where GPT-2's own is all, and "digits" where single digits
    are cut off before it."""
    check_pre(vocab)
    patterns = _PATTERNS[vocab.pre]
    return [] if patterns == [_GPT2] else ["digits"] if patterns == _PATTERNS["smollm"] else patterns


def ignores_merges(vocab: Vocab) -> bool:
    """Whether a word that is a token is that token, whatever the merges make of it."""
    return vocab.pre in LLAMA3_PRE


def normalizes(vocab: Vocab) -> bool:
    """Whether text is normalised (NFC) first, as in Qwen's and OLMo's own tokenizer.json; llama.cpp leaves it out."""
    return vocab.pre in ("qwen2", "olmo")


def sentencepiece_merges(vocab: Vocab) -> list[tuple[str, str]]:
    """The merges that the scores of a SentencePiece vocabulary mean, best first."""
    return _merges(vocab, _plain(vocab))


def _plain(vocab: Vocab) -> dict[str, int]:
    """Tokens that plain text may become. Control and unknown tokens are not among them, so text can never
    spell one; nor are tokens that hold bytes which are not UTF-8 (kept by surrogateescape)."""
    plain = {
        t: i
        for i, (t, kind) in enumerate(zip(vocab.tokens, vocab.types, strict=True))
        if t and kind not in (UNKNOWN, CONTROL)
    }
    try:
        "".join(plain).encode()
    except UnicodeEncodeError:
        plain = {t: i for t, i in plain.items() if not any("\ud800" <= c <= "\udfff" for c in t)}
    return plain


def _byte_level(vocab: Vocab) -> HfTokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    check_pre(vocab)
    plain = _plain(vocab)
    pairs: list[Any] = list(
        dict.fromkeys(tuple(line.split(" ", 2)) for line in vocab.merges)
    )  # of two equal merges the first counts
    ignore_merges = ignores_merges(vocab)
    try:
        model = models.BPE(vocab=plain, merges=pairs, ignore_merges=ignore_merges)
    except Exception:  # the library's errors don't say which merge
        model = models.BPE(vocab=plain, merges=_usable(pairs, plain, set(vocab.tokens)), ignore_merges=ignore_merges)
    built = Tokenizer(model)
    if normalizes(vocab):
        built.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in _PATTERNS[vocab.pre]]
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return built


def _usable(pairs: list[Any], plain: dict[str, int], tokens: set[str]) -> list[Any]:
    """The merges that make plain tokens of plain tokens. Raises ValueError for one that is no pair or has no
    token."""
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(
                f"[tokenizer] {MERGES}: {' '.join(pair)[:40]!a} is not two tokens with a space between them"
            )
        for text in (*pair, "".join(pair)):
            if text not in tokens:
                raise ValueError(
                    f"[tokenizer] {MERGES}: {' '.join(pair)[:40]!a} needs {text[:40]!a}, which {TOKENS} lacks"
                )
    return [pair for pair in pairs if plain.keys() >= {*pair, "".join(pair)}]


def _sentencepiece(vocab: Vocab) -> HfTokenizer:
    from tokenizers import Tokenizer, models

    plain = _plain(vocab)
    merges = _merges(vocab, plain)
    unknown = "\0unknown"
    while unknown in plain:
        unknown += "\0"
    plain[unknown] = vocab.unk_id if vocab.unk_id is not None else 0
    has_bytes = BYTE in vocab.types
    return Tokenizer(models.BPE(vocab=plain, merges=merges, byte_fallback=has_bytes, fuse_unk=True, unk_token=unknown))


def _merges(vocab: Vocab, plain: dict[str, int]) -> list[tuple[str, str]]:
    if sum(len(text) ** 2 for text in plain) > _MAX_SQUARES:
        raise ValueError(
            f"[tokenizer] {TOKENS} holds tokens too long to merge, up to {max(map(len, plain))} characters"
        )
    pieces = [text for text, i in plain.items() if vocab.types[i] != BYTE and len(text) > 1]
    pieces.sort(key=lambda text: (-vocab.scores[plain[text]], plain[text]))
    mergeable = {text for text, i in plain.items() if vocab.types[i] != BYTE}
    if BYTE in vocab.types:
        return _all_splits(pieces, mergeable, plain)
    return _first_splits(pieces, mergeable)


def _all_splits(pieces: list[str], mergeable: set[str], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to make each piece of two tokens, best piece first.

    For one piece, the order of its splits and SentencePiece's "leftmost first" could differ only where the
    piece overlaps itself; tests compare the two on such texts.
    """
    merges: list[tuple[str, str]] = []
    for text in pieces:
        lefts = [text[:k] for k in range(1, len(text)) if text[:k] in mergeable and text[k:] in mergeable]
        merges += [(left, text[len(left) :]) for left in sorted(lefts, key=ids.__getitem__)]
    return merges


def _first_splits(pieces: list[str], mergeable: set[str]) -> list[tuple[str, str]]:
    """One merge per piece: the two tokens that the merges before it leave of its text.

    A vocabulary without byte tokens was trained as BPE merges (by the `tokenizers` library), one token per
    merge in rank order, and only written out as scores; this restores its merges.
    """
    ranks: dict[tuple[str, str], int] = {}
    for text in pieces:
        symbols = list(text)
        while len(symbols) > 2:
            best = min((ranks.get(pair, len(ranks)), k) for k, pair in enumerate(pairwise(symbols)))
            if best[0] == len(ranks):
                break
            symbols[best[1] : best[1] + 2] = ["".join(symbols[best[1] : best[1] + 2])]
        if len(symbols) == 2 and mergeable.issuperset(symbols):
            ranks[symbols[0], symbols[1]] = len(ranks)
    return list(ranks)
