"""Things with a name rather than a room: locks and timers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .actions import Action, asks
from .names import TIMERS
from .words import DOORS, english_minutes, german_minutes


@dataclass(frozen=True)
class Named:
    """A kind of named thing; the functions give the noun and the value of its replies."""

    actions: dict[str, Action]
    english: Callable[[str | None], str]
    german: Callable[[str | None], str]
    english_value: Callable[[float | str | None], str]
    german_value: Callable[[float | str | None], str]
    weight: float


def _nothing(value: float | str | None) -> str:
    return ""


def _door(name: str | None) -> str:
    return "all doors" if name == "all" else f"the {name}"


def _tuer(name: str | None) -> str:
    if name == "all":
        return "alle Türen"
    noun, article = DOORS[str(name)]
    return f"{article} {noun}"


_LOCK = {
    "lock": Action(
        "{n} {is} locked",
        "lock {n}",
        "{n} {ist} abgeschlossen",
        "schließe {a}{when} ab",
        asks("""@lock {n}
@lock up {n}
@secure {n}
make sure {n} {is} locked
@keep {n} locked
I (forgot|want) to lock {n}
{n} should be locked"""),
        weight=2.0,
    ),
    "unlock": Action(
        "{n} {is} unlocked",
        "unlock {n}",
        "{n} {ist} aufgeschlossen",
        "schließe {a}{when} auf",
        asks(
            "@unlock {n}\n@unlock {n} for (me|us|the guests|my friend)\nsomeone is locked out at {n}\n"
            "{n} should be unlocked"
        ),
    ),
    "get": Action(
        "let me check {n}",
        "check {n}",
        "ich prüfe {a}",
        "prüfe {a}{when}",
        asks("""{is} {n} locked
@check (if|whether) {n} {is} locked
did I lock {n}
did (I|we|someone) forget to lock {n}"""),
        timed=False,
    ),
}
_TIMER = {
    "start": Action(
        "{n} is set for {v}",
        "",
        "{n} läuft {v}",
        "",
        asks("""@set {a_name} timer for {v}
@start {a_name} timer for {v}
@set a timer for {v} {for_the}
@start a {v_one} timer {for_the}
@set a {v_one} timer {for_the}
{v_one} timer {for_the}
timer {for_the} {v}
@count down {v} {for_the}"""),
        weight=3.0,
        timed=False,
    ),
    "cancel": Action(
        "{n} is canceled",
        "",
        "{n} ist gestoppt",
        "",
        asks("""@cancel the {name} timer
@stop the {name} timer
@turn off the {name} timer
I (don't|no longer) need the {name} timer (any more|anymore|)
no {name} timer (please|anymore)"""),
        timed=False,
    ),
    "get": Action(
        "let me check {n}",
        "",
        "ich prüfe {a}",
        "",
        asks("""how (much time|long) is left on the {name} timer
how long (until|before) the {name} timer (is done|rings|goes off)
@check the {name} timer"""),
        timed=False,
        weight=0.6,
    ),
}

NAMED: dict[str, Named] = {
    "lock": Named(_LOCK, _door, _tuer, _nothing, _nothing, 2.2),
    "timer": Named(
        _TIMER,
        lambda n: f"the {n or ''} timer",
        lambda n: f"der {TIMERS[n]}-Timer" if n else "der Timer",
        lambda v: english_minutes(int(v or 0)),
        lambda v: german_minutes(int(v or 0)),
        2.0,
    ),
}
