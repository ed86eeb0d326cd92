"""A SentencePiece model file, tokenizer.model, read without the library: pieces, scores, types, handling of spaces.

It is a protocol buffer (sentencepiece_model.proto of https://github.com/google/sentencepiece).  Its types of pieces are
GGUF's types of tokens.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..vocab import USER_DEFINED

MAX_BYTES = 64 << 20
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types

PIECES, TRAINER, NORMALIZER = 1, 2, 3
MODEL_TYPE, BPE, WHITESPACE_AS_SUFFIX = 3, 2, 24
CHARSMAP, ADD_DUMMY_PREFIX, REMOVE_EXTRA_WHITESPACES, ESCAPE_WHITESPACES = 2, 3, 4, 5


class SentencePieceModel(NamedTuple):
    """Pieces in the order of their ids; adds_prefix: whether text gets a space in front."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    adds_prefix: bool


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """ValueError: the file is damaged, or a model whose ids scores alone would not give again (unigram, or text that is
    normalised first)."""
    if os.path.getsize(path) > MAX_BYTES:
        raise ValueError(f"[convert] {path} is larger than {MAX_BYTES >> 20} MiB")
    try:
        return _model(path.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"[convert] {path} is not a SentencePiece model: {error}") from None
    except ValueError as error:
        raise ValueError(f"[convert] {path}: {error}") from None


def _model(data: bytes) -> SentencePieceModel:
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for field, value in _fields(data):
        if field == PIECES:
            piece = dict(_fields(_bytes(value)))
            pieces.append(_bytes(piece.get(1, b"")).decode())
            scores.append(float(struct.unpack("<f", _bytes(piece.get(2, bytes(4))))[0]))
            types.append(_int(piece.get(3, 1)))
        elif field == TRAINER:
            trainer = dict(_fields(_bytes(value)))
        elif field == NORMALIZER:
            normalizer = dict(_fields(_bytes(value)))
    if trainer.get(MODEL_TYPE, 1) != BPE:
        raise ValueError("the SentencePiece model is no BPE; give a tokenizer.json of a kind that is supported")
    if normalizer.get(CHARSMAP) or normalizer.get(REMOVE_EXTRA_WHITESPACES, 1) or trainer.get(WHITESPACE_AS_SUFFIX):
        raise ValueError("the SentencePiece model normalises text, which a GGUF can't say")
    if not normalizer.get(ESCAPE_WHITESPACES, 1):
        raise ValueError("the SentencePiece model doesn't mark spaces, which a GGUF can't say")
    adds_prefix = bool(normalizer.get(ADD_DUMMY_PREFIX, 1))
    if adds_prefix and USER_DEFINED in types:
        raise ValueError("the SentencePiece model puts a space before its user-defined symbols, which a GGUF can't say")
    return SentencePieceModel(pieces, scores, types, adds_prefix)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a message's fields: integers, or the raw bytes of everything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire not in (FIXED64, BYTES, FIXED32):
            raise ValueError(f"not a SentencePiece model: wire type {wire} at byte {at}")
        n = {FIXED64: 8, FIXED32: 4}.get(wire, 0)
        if wire == BYTES:
            n, at = _varint(data, at)
        if n > len(data) - at:
            raise ValueError(f"not a SentencePiece model: {n} bytes at byte {at} of {len(data)}")
        yield key >> 3, data[at : at + n]
        at += n


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"not a SentencePiece model: no number at byte {at}")


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where bytes are due")
    return value


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise TypeError("bytes where a number is due")
    return value
