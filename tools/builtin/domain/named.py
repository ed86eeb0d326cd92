"""Things with a name rather than a room: doors, locks, timers, scenes, reminders, lists, cameras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .actions import Action, asks
from .names import CAMERAS, GOODS, SCENES, TASKS, TIMERS
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


def _words(table: dict[str, str]) -> Callable[[float | str | None], str]:
    return lambda value: table[str(value)]


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
_DOOR = {
    "open": Action(
        "{n} {is} open",
        "open {n}",
        "{n} {ist} offen",
        "öffne {a}{when}",
        asks("""@open {n}
@open up {n}
@open {n} for (me|us|the guests)
{n} open
@let me in (at|through) {n}"""),
    ),
    "close": Action(
        "{n} {is} closed",
        "close {n}",
        "{n} {ist} geschlossen",
        "schließe {a}{when}",
        asks("""@close {n}
@shut {n}
{n} (closed|shut)
someone left {n} open
{n} {is} still open"""),
    ),
    "get": Action(
        "let me check {n}",
        "check {n}",
        "ich prüfe {a}",
        "prüfe {a}{when}",
        asks("{is} {n} (open|closed|shut)\ndid I (close|shut) {n}\n@check (if|whether) {n} {is} (open|closed)"),
        timed=False,
        weight=0.6,
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
    "door": Named(_DOOR, _door, _tuer, _nothing, _nothing, 1.3),
    "timer": Named(
        _TIMER,
        lambda n: f"the {n or ''} timer",
        lambda n: f"der {TIMERS[n]}-Timer" if n else "der Timer",
        lambda v: english_minutes(int(v or 0)),
        lambda v: german_minutes(int(v or 0)),
        2.0,
    ),
    "scene": Named(
        {
            "start": Action(
                "{n} is on",
                "start {n}",
                "{n} ist an",
                "starte {a}{when}",
                asks("""@start {n}
@activate {n}
@(switch|change) to {n}
@run {n}
@turn on {n}
{n} please
put the house in {n}"""),
            )
        },
        lambda n: f"the {n} scene",
        lambda n: f"die Szene {SCENES[str(n)][0]}",
        _nothing,
        _nothing,
        1.5,
    ),
    "reminder": Named(
        {
            "set": Action(
                "I will remind you to {v}",
                "remind you to {v}",
                "ich erinnere dich daran, {v}",
                "erinnere dich{when} daran, {v}",
                asks("""@remind me to {v}
@remind me {when} to {v}
@set a reminder {when} to {v}
@set a reminder to {v}
@give me a reminder to {v}
I (have|need) to {v}, so remind me
don't let me forget to {v}"""),
            )
        },
        _door,
        lambda n: "",
        lambda v: str(v).replace(" my ", " your "),
        _words(TASKS),
        1.3,
    ),
    "shopping list": Named(
        {
            "add": Action(
                "I added {v} to the shopping list",
                "",
                "ich habe {v} auf die Einkaufsliste gesetzt",
                "",
                asks("""@add {v} to the (shopping|grocery) list
@put {v} on the (shopping|grocery) list
@put {v} on my list
@write {v} on the (shopping|grocery) list
we (are|ran) out of {v}
we need (more|some|) {v}
I need to buy {v}
we have no {v} left"""),
                timed=False,
                weight=2.0,
            ),
            "remove": Action(
                "I removed {v} from the shopping list",
                "",
                "ich habe {v} von der Einkaufsliste gestrichen",
                "",
                asks("""@take {v} off the (shopping|grocery|) list
cross {v} off the (shopping|) list
remove {v} from the (shopping|grocery) list
we (don't|no longer) need {v} (any more|)"""),
                timed=False,
            ),
        },
        _door,
        lambda n: "",
        lambda v: str(v),
        _words(GOODS),
        1.3,
    ),
    "camera": Named(
        {
            "show": Action(
                "here is the camera at {n}",
                "show the camera at {n}",
                "hier ist die Kamera {n}",
                "zeige die Kamera {n}{when}",
                asks("""@show (me|us|) the {name} camera
@show me the camera (at|in) {n}
who is at {n}
what's (happening|going on) at {n}
@(open|start) the {name} camera
@let me see {n}"""),
                timed=False,
            )
        },
        _door,
        lambda n: CAMERAS[str(n)],
        _nothing,
        _nothing,
        0.7,
    ),
}
