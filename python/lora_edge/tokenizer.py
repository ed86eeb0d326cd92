"""Text to token ids and back, from the metadata of a GGUF file.

Special tokens are found in the text as llama.cpp finds them, longest first; what lies between goes to an
encoder built with the `tokenizers` library (pretokenizers.py), at the first use. Decoding works on bytes,
piece by piece, so a stream costs the same for each token however long the text before it.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

from .pretokenizers import build_encoder, byte_alphabet, check_pre
from .vocab import BYTE, NORMAL, SPACE, USER_DEFINED, Vocab

_C_SPACES = " \t\n\v\f\r"
_BYTE_OF = byte_alphabet()


class Tokenizer:
    """The tokenizer of one model file. Immutable, and usable from several threads.

    Two kinds of tokens are parsed out of text: user-defined ones always, control and unknown ones only with
    `special=True`. With `special=False` no text, whatever it says, becomes a control token.
    """

    def __init__(self, vocab: Vocab) -> None:
        check_pre(vocab)
        self._vocab = vocab
        self.vocab_size: int = len(vocab.tokens)
        self.bos_id: int | None = vocab.bos_id
        self.eos_id: int | None = vocab.eos_id
        self.stop_ids: frozenset[int] = vocab.stop_ids
        """Ids that end a generation: EOS, end of turn, end of message and the texts llama.cpp knows as
        such."""
        self.add_bos: bool = vocab.add_bos
        self.add_eos: bool = vocab.add_eos
        self.chat_template: str | None = vocab.chat_template

    @classmethod
    def from_metadata(cls, meta: Mapping[str, object]) -> Tokenizer:
        """From a file's `tokenizer.ggml.*` entries. Raises ValueError, naming the key, for what is missing,
        malformed or not supported. The merges are checked when text is first encoded."""
        return cls(Vocab.from_metadata(meta))

    @cached_property
    def _encode_plain(self) -> Callable[[str, bool], list[int]]:
        return build_encoder(self._vocab)

    def encode(
        self, text: str, add_bos: bool | None = None, special: bool = False, *, after: int | None = None
    ) -> list[int]:
        """The ids of `text`. `add_bos`: put BOS in front; None: BOS and EOS by the file's rules. `special`:
        the text of a control token, such as <|im_end|>, is that token. `after`: the token that the text goes on
        from; SentencePiece's leading space is then left out, but for a control token. Raises ValueError if the
        text holds a lone surrogate, or for add_bos=True if the file has no BOS."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"[tokenizer] the text holds a lone surrogate at position {error.start}; this is no text"
            ) from None
        ids: list[int] = []
        if self.add_bos if add_bos is None else add_bos:
            if self.bos_id is None:
                raise ValueError("[tokenizer] add_bos was asked for, but the file has no tokenizer.ggml.bos_token_id")
            ids.append(self.bos_id)
        space_prefix = self._vocab.add_space_prefix
        after_special = after is None or self._vocab.types[after] not in (NORMAL, BYTE)
        for part in self._parts(text, special):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode_plain(part, space_prefix and after_special)
            after_special = isinstance(part, int)
        if add_bos is None and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def _parts(self, text: str, special: bool) -> list[str | int]:
        """`text` cut at the special tokens in it; longer ones are looked for first, in all of it."""
        parts: list[str | int] = [text] if text else []
        for token in self._vocab.parsed[special]:
            needle = self._vocab.tokens[token]
            if needle not in text:
                continue
            strip = self._vocab.eats_space_after(token)
            cut: list[str | int] = []
            for part in parts:
                while isinstance(part, str) and (at := part.find(needle)) >= 0:
                    if at:
                        cut.append(part[:at])
                    cut.append(token)
                    part = part[at + len(needle) :]
                    part = part.lstrip(_C_SPACES) if strip else part
                if part != "":
                    cut.append(part)
            parts = cut
        return parts

    def decode(self, ids: Iterable[int], *, continuation: bool = False) -> str:
        """The text of `ids`; control, unknown and unused tokens are not rendered, and bytes that are no UTF-8
        become U+FFFD.

        A SentencePiece tokenizer puts a space before a text's first word, and decoding takes it away again.
        `continuation=True` leaves it, for ids that go on from an earlier text. Raises ValueError for an id
        out of range.
        """
        text = b"".join(map(self._piece, ids)).decode("utf-8", "replace")
        return text[1:] if self._drops_space(continuation) and text.startswith(" ") else text

    def stream(self, *, continuation: bool = False) -> TokenStream:
        """A decoder for ids that arrive one by one; its texts, joined, are `decode(ids,
        continuation=continuation)`."""
        return TokenStream(self._piece, self._drops_space(continuation))

    def token_text(self, token: int) -> str:
        """The text of one token for display, control tokens included; half a character shows as U+FFFD."""
        if 0 <= token < self.vocab_size and self._vocab.types[token] in (NORMAL, BYTE):
            return self._piece(token).decode("utf-8", "replace")
        self._piece(token)
        return self._vocab.tokens[token].encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def _drops_space(self, continuation: bool) -> bool:
        return self._vocab.add_space_prefix and not continuation

    def _piece(self, token: int) -> bytes:
        """The bytes that a token adds to the text."""
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"[tokenizer] token id {token} is outside the vocabulary of {self.vocab_size} tokens")
        kind, text = self._vocab.types[token], self._vocab.tokens[token]
        if kind == BYTE:
            return bytes([int(text[3:5], 16)])
        if kind == NORMAL and self._vocab.model == "llama":
            text = text.replace(SPACE, " ")
        elif kind == NORMAL:
            try:
                return bytes([_BYTE_OF[c] for c in text])
            except KeyError:  # not written in the byte alphabet: it stands for itself
                pass
        elif kind != USER_DEFINED:
            return b""
        return text.encode("utf-8", "surrogateescape")


class TokenStream:
    """Text from tokens as they come, a character only once all its bytes are there."""

    def __init__(self, piece: Callable[[int], bytes], drops_space: bool) -> None:
        self._piece = piece
        self._drops_space = drops_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that `token` completes, often all of its own; "" for control tokens and while a character
        lacks bytes. Raises ValueError for an id out of range."""
        return self._emit(self._decoder.decode(self._piece(token)))

    def flush(self) -> str:
        """What is left at the end: U+FFFD if the last character stayed incomplete, else ""."""
        return self._emit(self._decoder.decode(b"", final=True))

    def _emit(self, text: str) -> str:
        if text and self._drops_space:
            self._drops_space = False
            return text[1:] if text[0] == " " else text
        return text
