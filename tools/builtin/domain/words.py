"""Places, numbers and times, as people say them, with their German forms."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .grammar import listed


@dataclass(frozen=True)
class Room:
    """A place: its name in commands, what people call it, its English and German "where" phrase."""

    name: str
    said: tuple[str, ...]
    prep: str  # in, on or at
    german: str


def _room(said: str, german: str, prep: str = "in") -> Room:
    names = tuple(said.split("/"))
    return Room(names[0], names, prep, german)


ROOMS: dict[str, Room] = {
    r.name: r
    for r in (
        _room("kitchen", "in der Küche"),
        _room("living room/living room/lounge/sitting room", "im Wohnzimmer"),
        _room("bedroom/bedroom/bedroom/master bedroom", "im Schlafzimmer"),
        _room("nursery/nursery/baby's room", "im Kinderzimmer"),
        _room("study", "im Arbeitszimmer"),
        _room("bathroom/bathroom/bath", "im Bad"),
        _room("hall/hall/hallway/corridor", "im Flur"),
        _room("dining room", "im Esszimmer"),
        _room("guest room/guest room/spare room/guest bedroom", "im Gästezimmer"),
        _room("garage", "in der Garage"),
    )
}
LIVED_IN = tuple(n for n in ROOMS if n != "garage")

DOORS: dict[str, tuple[str, str]] = {  # name -> German noun, and the gender's accusative article
    "front door": ("Haustür", "die"),
    "back door": ("Hintertür", "die"),
    "garage door": ("Garagentor", "das"),
    "basement door": ("Kellertür", "die"),
    "balcony door": ("Balkontür", "die"),
    "side door": ("Seitentür", "die"),
    "garden gate": ("Gartentor", "das"),
    "terrace door": ("Terrassentür", "die"),
}
DOOR_SAID = {
    "front door": ("front door", "front door", "main door", "entrance door"),
    "basement door": ("basement door", "cellar door"),
    "terrace door": ("terrace door", "patio door"),
}

_ONES = listed("""
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen
""")
_TENS = listed("_ _ twenty thirty forty fifty sixty seventy eighty ninety")


def number_words(n: int, joint: str = "-") -> str:
    """0 to 999 in English words; `joint` stands between tens and ones."""
    if n >= 100:
        rest = n % 100
        return f"{_ONES[n // 100]} hundred" + (f" and {number_words(rest, joint)}" if rest else "")
    if n < 20:
        return _ONES[n]
    return _TENS[n // 10] + (joint + _ONES[n % 10] if n % 10 else "")


def say_number(n: float, rng: random.Random, digits: float = 0.55) -> str:
    """The number as digits (with the given probability) or words; halves as "21.5" or "… and a half"."""
    whole, half = int(n), n != int(n)
    if rng.random() < digits:
        return f"{n:g}"
    words = number_words(whole, rng.choice("- "))
    return words + rng.choice((" and a half", " point five")) if half else words


def say_minutes(n: int, rng: random.Random) -> str:
    """A duration in minutes, said as minutes or hours."""
    fixed = {
        30: ("half an hour", "30 minutes", "thirty minutes", "30 min"),
        60: ("an hour", "one hour", "1 hour", "60 minutes", "sixty minutes"),
        90: ("an hour and a half", "one and a half hours", "90 minutes", "ninety minutes", "1.5 hours"),
        15: ("15 minutes", "fifteen minutes", "a quarter of an hour", "15 min"),
        45: ("45 minutes", "forty-five minutes", "forty five minutes", "three quarters of an hour"),
        1: ("a minute", "one minute", "1 minute"),
        2: ("two minutes", "2 minutes", "a couple of minutes"),
    }
    if n in fixed:
        return rng.choice(fixed[n])
    if n >= 120 and n % 60 == 0:
        return f"{say_number(n // 60, rng)} hours"
    return f"{say_number(n, rng)} {rng.choice(('minutes', 'minutes', 'minutes', 'mins', 'min'))}"


def english_minutes(n: int) -> str:
    """The duration as the replies write it: "10 minutes", "1 hour"."""
    if n >= 60 and n % 60 == 0:
        return f"{n // 60} hour{'s' if n > 60 else ''}"
    return f"{n} minute{'s' if n != 1 else ''}"


def german_minutes(n: int) -> str:
    """The same in German: "10 Minuten", "1 Stunde"."""
    if n >= 60 and n % 60 == 0:
        return f"{n // 60} Stunde{'n' if n > 60 else ''}"
    return f"{n} Minute{'n' if n != 1 else ''}"


def say_clock(clock: str, rng: random.Random) -> str:
    """A time "HH:MM" as people say it, always unambiguous."""
    hour, minute = int(clock[:2]), int(clock[3:])
    if clock == "12:00" and rng.random() < 0.7:
        return rng.choice(("noon", "midday"))
    if clock == "00:00" and rng.random() < 0.7:
        return "midnight"
    if rng.random() < 0.25:
        return f"{hour}:{minute:02d}" if hour > 12 else f"{hour:02d}:{minute:02d}"
    part = "in the morning" if hour < 12 else "in the afternoon" if hour < 17 else "in the evening"
    short = "am" if hour < 12 else "pm"
    if hour >= 21:
        part = "at night"
    half = rng.choice((f" {short}", short, f" {part}")) if rng.random() < 0.5 else f" {short}"
    twelve = hour % 12 or 12
    as_words = rng.random() < 0.45 or half == f" {part}"
    if not as_words:
        return f"{twelve}{f':{minute:02d}' if minute else ''}{half}"
    half = half if half.startswith(" ") else f" {half}"
    after = number_words(twelve)
    following = number_words(twelve % 12 + 1)
    if minute == 30:
        return rng.choice((f"half past {after}", f"{after} thirty")) + half
    if minute == 15:
        return rng.choice((f"quarter past {after}", f"a quarter past {after}", f"{after} fifteen")) + half
    if minute == 45 and hour not in (11, 23):
        return rng.choice((f"quarter to {following}", f"a quarter to {following}", f"{after} forty-five")) + half
    if minute:
        said = number_words(minute, rng.choice("- ")) if minute > 9 else f"oh {number_words(minute)}"
        return f"{after} {said}{half}"
    return after + (rng.choice(("", "", " o'clock")) if half == f" {part}" else "") + half


def pick_minutes(rng: random.Random) -> int:
    """A duration in minutes, round ones more often."""
    if rng.random() < 0.2:
        return rng.randint(1, 59)
    return rng.choice(
        (1, 2, 3, 4, 5, 5, 10, 10, 12, 15, 15, 20, 20, 25, 30, 30, 35, 40, 45, 50, 60, 60, 90, 120, 180, 240)
    )


def pick_clock(rng: random.Random) -> str:
    """A time of day "HH:MM", round ones more often."""
    minute = rng.choice((0, 0, 0, 0, 30, 30, 30, 15, 45)) if rng.random() < 0.85 else rng.randrange(5, 60, 5)
    return f"{rng.choice((*range(5, 24), *range(6, 24), 0)):02d}:{minute:02d}"
