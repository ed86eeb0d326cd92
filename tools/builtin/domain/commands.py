"""A command of the home, and its three renderings: JSON, English reply, German reply."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .devices import DEVICES
from .named import NAMED
from .words import ROOMS, english_minutes, german_minutes

ALL = "all"
COLORS = {
    "red": "rot",
    "blue": "blau",
    "green": "grün",
    "yellow": "gelb",
    "orange": "orange",
    "purple": "lila",
    "pink": "rosa",
    "white": "weiß",
    "warm white": "warmweiß",
    "cold white": "kaltweiß",
    "turquoise": "türkis",
}
MUSIC = {
    "jazz": "Jazz",
    "rock": "Rock",
    "classical music": "klassische Musik",
    "pop": "Pop",
    "blues": "Blues",
    "piano music": "Klaviermusik",
    "the radio": "das Radio",
    "the news": "die Nachrichten",
    "folk": "Folk",
    "nature sounds": "Naturgeräusche",
    "lullabies": "Schlaflieder",
    "hip hop": "Hip-Hop",
    "soul": "Soul",
    "dance music": "Tanzmusik",
    "guitar music": "Gitarrenmusik",
    "music": "Musik",
}
SPEEDS = {"low": "niedrig", "medium": "mittel", "high": "hoch"}


@dataclass(frozen=True)
class Command:
    """What is to be done: `name` says which door, timer or scene, `room` where ("all": everywhere)."""

    device: str
    action: str
    room: str | None = None
    name: str | None = None
    value: float | str | None = None
    in_minutes: int | None = None
    at: str | None = None  # "HH:MM"
    for_minutes: int | None = None

    def fields(self) -> dict[str, object]:
        """The JSON object, its keys in their fixed order; what isn't said isn't there."""
        value = int(self.value) if isinstance(self.value, float) and self.value.is_integer() else self.value
        pairs = (
            ("device", self.device),
            ("name", self.name),
            ("room", self.room),
            ("action", self.action),
            ("value", value),
            ("in_minutes", self.in_minutes),
            ("at", self.at),
            ("for_minutes", self.for_minutes),
        )
        return {k: v for k, v in pairs if v is not None}


def to_json(commands: Sequence[Command]) -> str:
    """One object, a list of objects if several things are to be done, ``{"action":"none"}`` if nothing is."""
    objects = [c.fields() for c in commands] or [{"action": "none"}]
    return json.dumps(objects[0] if len(objects) == 1 else objects, separators=(",", ":"), ensure_ascii=False)


def _tidy(text: str) -> str:
    return re.sub(r"  +", " ", text).strip()


def english_value(c: Command) -> str:
    """The value as the English reply writes it."""
    if c.value is None or isinstance(c.value, str):
        return c.value or ""
    action = DEVICES[c.device].actions[c.action]
    return f"{c.value:g} {'percent' if action.kind == 'percent' else 'degrees' if c.value != 1 else 'degree'}"


def german_value(c: Command) -> str:
    """The value as the German reply writes it: halves with a comma."""
    if isinstance(c.value, str):
        return {**COLORS, **MUSIC, **SPEEDS}[c.value]
    if c.value is None:
        return ""
    unit = "Prozent" if DEVICES[c.device].actions[c.action].kind == "percent" else "Grad"
    return f"{c.value:g}".replace(".", ",") + f" {unit}"


def _english_clause(c: Command) -> str:
    if c.device in NAMED:
        noun, action, plural = (
            NAMED[c.device].english(c.name),
            NAMED[c.device].actions[c.action],
            c.name == ALL,
        )
        value, place = NAMED[c.device].english_value(c.value), ""
    else:
        device, action = DEVICES[c.device], DEVICES[c.device].actions[c.action]
        plural = device.plural or c.room == ALL
        noun = device.english_all if c.room == ALL else f"the {c.room or ''} {c.device}"
        place = "" if c.room is None else " everywhere" if c.room == ALL else f" {ROOMS[c.room].prep} the {c.room}"
        value = english_value(c)
    slots = {
        "n": noun,
        "is": "are" if plural else "is",
        "v": value,
        "inplace": place,
        "by": f" by {value}" if value else "",
    }
    when = f" in {english_minutes(c.in_minutes)}" if c.in_minutes else f" at {c.at}" if c.at else ""
    length = f" for {english_minutes(c.for_minutes)}" if c.for_minutes else ""
    if when:
        return _tidy(f"I will {action.english_do.format(**slots)}{length}{when}")
    return _tidy(action.english.format(**slots) + length)


def _german_clause(c: Command) -> str:
    when = f" in {german_minutes(c.in_minutes)}" if c.in_minutes else f" um {c.at} Uhr" if c.at else ""
    length = f" für {german_minutes(c.for_minutes)}" if c.for_minutes else ""
    if c.device in NAMED:
        named = NAMED[c.device]
        action, plural, place = named.actions[c.action], c.name == ALL, ""
        nominative = accusative = named.german(c.name)
        value = named.german_value(c.value)
    else:
        device, action = DEVICES[c.device], DEVICES[c.device].actions[c.action]
        plural = device.plural or c.room == ALL
        nominative, accusative = (device.german[2],) * 2 if c.room == ALL else device.german[:2]
        place = "" if c.room is None else " überall" if c.room == ALL else f" {ROOMS[c.room].german}"
        if c.room != ALL:
            nominative, accusative = nominative + place, accusative + place
        value = german_value(c)
    slots = {
        "n": nominative,
        "a": accusative,
        "ist": "sind" if plural else "ist",
        "v": value,
        "inplace": place,
        "when": when + length if when else "",
        "for": length,
        "by": f" um {value}" if value else "",
    }
    if when:
        return _tidy(f"ich {action.german_do.format(**slots)}")
    return _tidy(action.german.format(**slots))


def to_english(commands: Sequence[Command]) -> str:
    """The base's reply."""
    return "Okay, " + " and ".join(_english_clause(c) for c in commands) + "."


def to_german(commands: Sequence[Command]) -> str:
    """The German adapter's reply."""
    return "Alles klar, " + " und ".join(_german_clause(c) for c in commands) + "."
