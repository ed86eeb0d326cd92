"""What a device can do: the replies in English and German, and how people ask.

A template of an action is imperative if it begins with ``@`` (then it can be wrapped: "could you ..."),
else it is a sentence of its own. Slots: {n} the device with its place, {v} the value, {where} the place alone
("in the kitchen"), {name} a name. In replies {is}/{ist} agree in number and {for} is a German duration.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Action:
    """One thing a device can do."""

    english: str  # the state once done: "{n} {is} on"
    english_do: str  # what will be done later: "turn on {n}"
    german: str
    german_do: str
    asks: tuple[str, ...]
    kind: str = ""  # of the value: percent, degrees, delta, color, music, speed; "" for none
    weight: float = 1.0
    timed: bool = True  # may be asked for later
    lasting: bool = False  # may be asked for a while ("for 20 minutes")
    everywhere: bool = True  # may be asked for all rooms
    needs_place: bool = False


@dataclass(frozen=True)
class Device:
    """A device of the home; `rooms` is empty if there is only one, without a place."""

    key: str
    said: tuple[str, ...]
    german: tuple[str, str, str]  # nominative, accusative, all of them
    actions: dict[str, Action] = field(default_factory=dict)
    rooms: tuple[str, ...] = ()
    plural: bool = False
    weight: float = 1.0
    english_all: str = ""


def asks(text: str) -> tuple[str, ...]:
    """One template per line."""
    return tuple(line.strip() for line in text.strip().splitlines() if line.strip())


_ON = asks("""@turn on {n}
@turn {n} on
@switch on {n}
@switch {n} on
@put {n} on
@power (on|up) {n}
@(enable|activate) {n}
{n} on
I (want|need|would like) {n} on
{n} should be on""")
_OFF = asks("""@turn off {n}
@turn {n} off
@switch off {n}
@switch {n} off
@(kill|disable) {n}
@power (off|down) {n}
{n} off
I (want|need|would like) {n} off
{n} should be off
we (don't|do not) need {n} (any more|anymore|right now|now)""")


def on(extra: str = "", weight: float = 1.0) -> Action:
    """Switching on, with further ways to ask."""
    return Action(
        "{n} {is} on",
        "turn on {n}",
        "{n} {ist}{for} an",
        "schalte {a}{when} ein",
        _ON + asks(extra),
        lasting=True,
        weight=weight,
    )


def off(extra: str = "") -> Action:
    """Switching off, with further ways to ask."""
    return Action("{n} {is} off", "turn off {n}", "{n} {ist} aus", "schalte {a}{when} aus", _OFF + asks(extra))


def query(ways: str) -> Action:
    """Asking for the state."""
    return Action(
        "let me check {n}",
        "check {n}",
        "ich prüfe {a}",
        "prüfe {a}{when}",
        asks(ways),
        weight=0.6,
        timed=False,
    )


def covers(raise_word: str, lower_word: str, hint_open: str = "", hint_close: str = "") -> dict[str, Action]:
    """What blinds and curtains do; two imperatives of their own, with {n}, and hints without."""
    return {
        "open": Action(
            "{n} {is} open",
            "open {n}",
            "{n} {ist} offen",
            "öffne {a}{when}",
            asks(f"""@open {{n}}
@(raise|pull up) {{n}}
@{raise_word}
@open up {{n}}
{{n}} (up|open)
I (want|would like) {{n}} open
{hint_open}"""),
        ),
        "close": Action(
            "{n} {is} closed",
            "close {n}",
            "{n} {ist} geschlossen",
            "schließe {a}{when}",
            asks(f"""@close {{n}}
@(shut|lower) {{n}}
@{lower_word}
{{n}} (down|closed|shut)
I (want|would like) {{n}} closed
{hint_close}"""),
        ),
        "set": Action(
            "{n} {is} set to {v}",
            "set {n} to {v}",
            "{n} {ist} auf {v} gestellt",
            "stelle {a}{when} auf {v}",
            asks("""@set {n} to {v}
@put {n} (at|to) {v}
@(bring|adjust) {n} to {v}
{n} (to|at) {v}
@open {n} to {v}"""),
            kind="percent",
        ),
    }
