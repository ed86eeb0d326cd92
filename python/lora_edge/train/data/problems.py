"""What is said about bad data: the file, the line, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAX_SHOWN = 60  # characters of the user's text in a message


def bad_file(path: Path, what: str) -> ValueError:
    """The error of a file as a whole."""
    return ValueError(f"[data] '{path}' {what}")


def bad_line(path: Path, line: int, what: str) -> ValueError:
    """The error of a line, counted from 1."""
    return ValueError(f"[data] '{path}' line {line}: {what}")


@contextmanager
def at_line(path: Path, line: int) -> Iterator[None]:
    """Gives a ValueError raised inside the file and the line."""
    try:
        yield
    except ValueError as error:
        raise bad_line(path, line, str(error)) from None


def shown(value: object) -> str:
    """A value of the data in a message: on one line, not too long."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def kind_of(value: object) -> str:
    """What JSON calls a value's type."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
