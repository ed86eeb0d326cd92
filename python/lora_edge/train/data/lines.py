"""Lines of a JSONL or TSV file as objects, with their numbers."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .formats import format_of
from .problems import at_line, bad_file, bad_line, kind_of, shown

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a .jsonl file, or the rows of a .tsv file under its header's names, each with its line from 1.

    Blank lines are skipped and a UTF-8 byte order mark is ignored. A TSV has no quoting, as GLUE's files: a cell is
    what lies between two tabs. ValueError: the file is empty, not UTF-8, or the line that is not well formed.
    """
    return _rows(path) if path.suffix == ".tsv" else _objects(path)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in _texts(path):
        with at_line(path, line):
            value = _parse(text)
            if not isinstance(value, dict):
                raise ValueError(f'is {kind_of(value)}, not a JSON object such as {{"text": "..."}}')
        yield line, value


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    header: list[str] = []
    for line, text in _texts(path):
        cells = text.split("\t")
        if not header:
            header = [name.strip() for name in cells]
            if len(set(header)) != len(header) or "" in header:
                raise bad_line(path, line, f"the header {shown(text)} has a column without a name, or a name twice")
            try:
                format_of(dict.fromkeys(header))
            except ValueError as error:
                raise bad_line(path, line, f"the header {error}; a tab stands between two columns") from None
        elif len(cells) != len(header):
            raise bad_line(
                path, line, f"has {len(cells)} columns, the header has {len(header)}: one tab between two cells"
            )
        else:
            yield line, dict(zip(header, cells))


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank."""
    found = False
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if line == 1:
                if raw.startswith(_UTF16):
                    raise bad_file(path, "is UTF-16 text: save it as UTF-8")
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if b"\0" in raw:
                raise bad_line(path, line, "holds a NUL byte: the file is damaged, or no text in UTF-8")
            try:
                text = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                at = f"byte {error.start + 1} is 0x{raw[error.start]:02x}"
                raise bad_line(path, line, f"is not UTF-8 text ({at}): save the file as UTF-8") from None
            if text.strip():
                found = True
                yield line, text
    if not found:
        raise bad_file(path, "is empty")


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        hint = "; write one object per line" if text.strip() in "[]{}" or text.endswith((",", "[", "{")) else ""
        raise ValueError(f"is not JSON ({error.msg} at column {error.colno}){hint}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        if "digits" in str(error):  # Python's limit on the length of integers
            raise ValueError("holds a number with too many digits") from None
        raise


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} occurs twice in one object")
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
