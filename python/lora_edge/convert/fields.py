"""Reading JSON files of bounded size, and their fields with their types checked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

MAX_JSON = 64 << 20  # bytes


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size.  ValueError: too large, or not an object."""
    if os.path.getsize(path) > MAX_JSON:
        raise ValueError(f"[convert] {path} is larger than {MAX_JSON >> 20} MiB")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"[convert] {path} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"[convert] {path} is not a JSON object")
    return value


def optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


class Fields:
    """Typed access to the fields of a configuration; null is as good as absent.  ValueError names the field."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self.fields, self.where = fields, where

    def fail(self, name: str, what: str) -> NoReturn:
        raise ValueError(f"[convert] {self.where}: {name} = {str(self.fields.get(name))[:60]} is {what}")

    def count(self, name: str, default: int | None = None, most: int = (1 << 31) - 1) -> int:
        value = self.fields.get(name)
        value = default if value is None else value
        if type(value) is not int or not value > 0:
            self.fail(name, "not a positive whole number")
        if value > most:
            self.fail(name, f"more than the {most} that are supported")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.fields.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e30:
            self.fail(name, "not a finite number")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.fields.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            self.fail(name, "neither true nor false")
        return value

    def table(self, name: str) -> dict[str, Any]:
        value = self.fields.get(name) or {}
        if not isinstance(value, dict):
            self.fail(name, "not an object")
        return value

    def numbers(self, name: str, n: int) -> list[float]:
        value = self.fields.get(name)
        if not isinstance(value, list) or len(value) != n:
            self.fail(name, f"not a list of {n} numbers")
        inner = Fields(dict(enumerate(value)), f"{self.where}: {name}")  # type: ignore[arg-type]
        return [inner.number(i) for i in range(n)]  # type: ignore[arg-type]
