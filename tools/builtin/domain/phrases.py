"""The pieces of a request as people say them: values, devices with their place, times, politeness, noise."""

from __future__ import annotations

import random
from dataclasses import replace

from .actions import Action, Device
from .commands import ALL, COLORS, MUSIC, SPEEDS, Command
from .grammar import expand, gerund
from .words import ROOMS, pick_clock, pick_minutes, say_clock, say_minutes, say_number

_WRAPS = (
    *["{i}"] * 12,
    "please {i}",
    "{i} please",
    "{i}, please",
    "(can|could|would|will) you {i}",
    "could you please {i}",
    "(can|could) you {i} for me",
    "{i} for me",
    "(I'd|I would) like you to {i}",
    "I want you to {i}",
    "(would|do) you mind {g}",
    "{i} (now|right now|right away)",
    "go ahead and {i}",
    "(I need|I want) to {i}",
    "you (can|could|should) {i} now",
    "can we {i}",
    "let's {i}",
    "how about {g}",
    "be so kind and {i}",
    "(is it possible|would it be possible) to {i}",
    "time to {i}",
    "{i} if you (can|could|don't mind)",
    "I was wondering if you could {i}",
    "why don't you {i}",
    "could you quickly {i}",
    "just {i}",
)
_OPENERS = (
    "hey",
    "hi",
    "hello",
    "um",
    "uh",
    "ok",
    "okay",
    "so",
    "well",
    "hey there",
    "listen",
    "oh",
    "alright",
    "ok so",
    "er",
    "home",
    "hey home",
    "excuse me",
    "sorry",
    "darling",
    "computer",
)
_CLOSERS = ("thanks", "thank you", "thx", "will you", "okay", "if possible", "please", "cheers", "would you")


def _percent(rng: random.Random) -> tuple[float, str]:
    if rng.random() < 0.12:
        value, said = rng.choice(
            (
                (50, "half"),
                (25, "a quarter"),
                (75, "three quarters"),
                (100, "full"),
                (100, "the maximum"),
                (50, "fifty-fifty"),
                (100, "max"),
            )
        )
        if said != "fifty-fifty":
            return float(value), said
    n = rng.choice(range(5, 101, 5)) if rng.random() < 0.7 else rng.randint(1, 99)
    if rng.random() < 0.25:
        return float(n), f"{n}%"
    return float(n), f"{say_number(n, rng)} {rng.choice(('percent', 'percent', 'percent', 'per cent'))}"


def _degrees(rng: random.Random, low: int, high: int) -> tuple[float, str]:
    n = rng.randint(low, high) + (0.5 if rng.random() < 0.08 else 0.0)
    unit = rng.choice((" degrees", " degrees", " degrees", "", "°", " degrees celsius", "°C"))
    said = say_number(n, rng, 1.0 if unit.startswith("°") else 0.55)
    return n, said + unit


def say_value(kind: str, rng: random.Random) -> tuple[float | str | None, str]:
    """A value of the kind, and how it is said."""
    if kind == "percent":
        return _percent(rng)
    if kind == "degrees":
        return _degrees(rng, 15, 27)
    if kind == "delta":
        if rng.random() < 0.6:
            return None, rng.choice(("", "", "a bit", "a little"))
        n = rng.choice((1, 2, 2, 3, 4, 5))
        return float(n), f"by {say_number(n, rng)} degree{'s' if n > 1 else ''}"
    if kind == "color":
        color = rng.choice(list(COLORS))
        return color, color.replace("cold white", rng.choice(("cold white", "cool white")))
    if kind == "music":
        music = rng.choice(list(MUSIC))
        return music, music.removesuffix(" music") if music == "classical music" and rng.random() < 0.3 else music
    if kind == "speed":
        speed = rng.choice(list(SPEEDS))
        return speed, speed
    return None, ""


def say_noun(device: Device, room: str | None, rng: random.Random) -> str:
    """The device with its place, as said."""
    said = rng.choice(device.said)
    if room is None:
        return rng.choice((f"the {said}", f"the {said}", f"my {said}", f"the {said}"))
    if room == ALL:
        many = device.english_all.removeprefix("all ")
        return expand(
            f"(all (the|) {many}|all {many} in the house|the {many} everywhere|every single {device.key})",
            rng,
        )
    place = ROOMS[room]
    where = rng.choice(place.said)
    return expand(f"(the {where} {said}|the {where} {said}|the {said} {place.prep} the {where}|{where} {said})", rng)


def say_place(room: str | None, rng: random.Random) -> tuple[str, str]:
    """({where}, {place}) as said."""
    if room is None:
        return rng.choice(("", "in here", "", "here")), ""
    if room == ALL:
        return rng.choice(("everywhere", "in the whole house", "in all rooms", "in every room")), "whole house"
    said = rng.choice(ROOMS[room].said)
    return f"{ROOMS[room].prep} the {said}", said


def verb_is(noun: str) -> str:
    """ "is" or "are", by the noun as said."""
    return "are" if noun.split(" in ")[0].split(" on ")[0].endswith(("s", "everywhere")) else "is"


def with_time(c: Command, action: Action, imperative: bool, rng: random.Random) -> tuple[Command, str]:
    """The command with a time of its own, and how that is said; mostly neither."""
    if not imperative or rng.random() > 0.3:
        return c, ""
    if action.lasting and rng.random() < 0.35:
        n = pick_minutes(rng)
        return replace(c, for_minutes=n), f"for {say_minutes(n, rng)}"
    if not action.timed:
        return c, ""
    if rng.random() < 0.6:
        n = pick_minutes(rng)
        return replace(c, in_minutes=n), f"in {say_minutes(n, rng)}"
    clock = pick_clock(rng)
    return replace(c, at=clock), f"at {say_clock(clock, rng)}"


def wrap(text: str, when: str, rng: random.Random) -> str:
    """An imperative in one of its polite or impolite forms, with its time at either end."""
    if when and rng.random() < 0.2 and not when.startswith("for"):
        return f"{when}{rng.choice((' ', ', '))}{wrap(text, '', rng)}"
    text = f"{text} {when}".strip() if when else text
    form = expand(rng.choice(_WRAPS), rng)
    if (when and "now" in form) or " now" in text:
        form = "{i}"
    return form.replace("{i}", text).replace("{g}", gerund(text) if "{g}" in form else "")


def dress(text: str, rng: random.Random) -> str:
    """Openers and closers, capitals and punctuation, as speech and typing have them."""
    if rng.random() < 0.13:
        text = f"{rng.choice(_OPENERS)}{rng.choice((' ', ', '))}{text}"
    if rng.random() < 0.06 and "please" not in text:
        text = f"{text}{rng.choice((' ', ', '))}{rng.choice(_CLOSERS)}"
    style = rng.random()
    if style < 0.45:
        text = text.lower()
    elif style < 0.9:
        text = text[0].upper() + text[1:]
    elif style < 0.92:
        text = text.upper()
    question = text.lower().startswith(
        ("can", "could", "would", "will", "is ", "are ", "did", "what", "who", "how", "do you", "why")
    )
    return text + rng.choice(("", "", "", "?" if question else ".", "?" if question else ".", "" if question else "!"))
