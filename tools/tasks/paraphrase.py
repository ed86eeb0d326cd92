"""A sentence-pair task of our own: do two sentences say the same?

A pair starts from a meaning, such as (give, Tom, Anna, ball, red, in the park, today). A sentence of it is drawn from
forms (active, passive, seen from the other side, with place and time in front or at the end) and synonyms. For a pair
that is the same, two sentences are drawn from one meaning; for one that is not, the second is drawn from a meaning with
one thing changed: who does it to whom, a colour, a place, a time, a direction. Sentences of both kinds share most of
their words and differ in form alike, so words alone do not tell them apart; what is held out are meanings.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

NAMES = ("Tom", "Anna", "Ben", "Lily", "Max", "Mia", "Sam", "Sue", "Tim", "Amy")
ANIMALS = ("dog", "cat", "bird", "fox", "bear", "duck", "horse", "mouse")
THINGS = ("ball", "book", "hat", "cup", "box", "toy", "cake", "flower")
COLOURS = ("red", "blue", "green", "yellow", "black", "white")
SIZES = (("big", "large"), ("small", "little"), ("new",), ("old",))
PLACES = (
    ("in the park",),
    ("at home", "in the house"),
    ("at school",),
    ("in the garden",),
    ("near the lake", "by the lake"),
    ("on the farm",),
)
TIMES = (("today",), ("yesterday",), ("in the morning",), ("at night", "in the night"), ("last week",))
CHASES = (
    ("chased", "was chased by"),
    ("followed", "was followed by"),
    ("saw", "was seen by"),
    ("helped", "was helped by"),
)
# more than, less than: each says of A and B what the other says of B and A
COMPARED = (
    ("bigger", "smaller"),
    ("faster", "slower"),
    ("older", "younger"),
    ("stronger", "weaker"),
    ("taller", "shorter"),
)
KINDS = ("give", "chase", "compare")
LABELS = ("different", "same")


@dataclass(frozen=True)
class Meaning:
    """kind: of KINDS. a and b: who, and to whom. verb: of CHASES or COMPARED; thing, size: of what is given; colour: of
    that, or of a; colour2: of b; place, time: of PLACES and TIMES. All but kind are indices, 0 where a kind has no use
    for them."""

    kind: str
    a: int
    b: int
    verb: int = 0
    thing: int = 0
    colour: int = 0
    colour2: int = 0
    size: int = 0
    place: int = 0
    time: int = 0


def draw(kind: str, rng: random.Random) -> Meaning:
    """A meaning at random."""
    people = NAMES if kind == "give" else ANIMALS
    a, b = rng.sample(range(len(people)), 2)
    verb = rng.randrange(len(CHASES if kind == "chase" else COMPARED))
    sizes = (THINGS, COLOURS, COLOURS, SIZES, PLACES, TIMES)
    thing, colour, colour2, size, place, time = (rng.randrange(len(words)) for words in sizes)
    if kind == "give":
        return Meaning(kind, a, b, 0, thing, colour, 0, size, place, time)
    if kind == "chase":
        return Meaning(kind, a, b, verb, colour=colour, place=place, time=time)
    return Meaning(kind, a, b, verb, colour=colour, colour2=colour2)


def changed(meaning: Meaning, rng: random.Random) -> Meaning:
    """The meaning with one thing another; half of the time, who does it to whom."""
    if rng.random() < 0.5:
        return replace(meaning, a=meaning.b, b=meaning.a)
    if meaning.kind == "compare":
        return replace(meaning, verb=_other(meaning.verb, len(COMPARED), rng))
    fields = {"give": ("thing", "colour", "place", "time"), "chase": ("verb", "colour", "place", "time")}[meaning.kind]
    field = rng.choice(fields)
    words = {"thing": THINGS, "colour": COLOURS, "place": PLACES, "time": TIMES, "verb": CHASES}[field]
    return replace(meaning, **{field: _other(getattr(meaning, field), len(words), rng)})


def say(meaning: Meaning, rng: random.Random) -> str:
    """A sentence that says it."""
    forms: dict[str, Callable[[Meaning, random.Random], str]] = {"give": _give, "chase": _chase, "compare": _compare}
    return forms[meaning.kind](meaning, rng)


def _give(m: Meaning, rng: random.Random) -> str:
    a, b = NAMES[m.a], NAMES[m.b]
    size = rng.choice(SIZES[m.size])
    what = f"the {size} {COLOURS[m.colour]} {THINGS[m.thing]}"
    gave = rng.choice(("gave", "handed"))
    given = {"gave": "given", "handed": "handed"}[gave]
    core = rng.choice(
        (
            f"{a} {gave} {b} {what}",
            f"{a} {gave} {what} to {b}",
            f"{b} {rng.choice(('got', 'received'))} {what} from {a}",
            f"{what} was {given} to {b} by {a}",
        )
    )
    return _framed(core, m, rng)


def _chase(m: Meaning, rng: random.Random) -> str:
    active, passive = CHASES[m.verb]
    a, b = f"the {COLOURS[m.colour]} {ANIMALS[m.a]}", f"the {ANIMALS[m.b]}"
    return _framed(rng.choice((f"{a} {active} {b}", f"{b} {passive} {a}")), m, rng)


def _compare(m: Meaning, rng: random.Random) -> str:
    more, less = COMPARED[m.verb]
    a, b = f"the {COLOURS[m.colour]} {ANIMALS[m.a]}", f"the {COLOURS[m.colour2]} {ANIMALS[m.b]}"
    text = rng.choice(
        (f"{a} is {more} than {b}", f"{b} is {less} than {a}", f"{b} is not as {_plain(more)} as {a}")
    )  # fmt: skip
    return _sentence(text)


def _framed(core: str, m: Meaning, rng: random.Random) -> str:
    place, time = rng.choice(PLACES[m.place]), rng.choice(TIMES[m.time])
    return _sentence(
        rng.choice(
            (f"{core} {place} {time}", f"{time} {core} {place}", f"{place} {core} {time}", f"{time}, {place}, {core}")
        )
    )


def _plain(word: str) -> str:
    """bigger -> big"""
    stem = word.removesuffix("er")
    return stem[:-1] if stem.endswith("gg") else stem


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _other(index: int, n: int, rng: random.Random) -> int:
    return (index + rng.randrange(1, n)) % n


def pairs(sizes: dict[str, int], seed: int) -> dict[str, list[dict[str, str]]]:
    """Rows {"sentence1", "sentence2", "label"} of each split; no meaning of one split occurs in another."""
    rng = random.Random(seed)
    owner: dict[Meaning, str] = {}
    out: dict[str, list[dict[str, str]]] = {}
    for split, n in sorted(sizes.items(), key=lambda item: item[1]):  # the largest has to do with what is left
        rows = out[split] = []
        while len(rows) < n:
            same, kind = rng.random() < 0.5, rng.choice(KINDS)
            one, two, first, second = _pair(same, kind, rng)
            while first == second or any(owner.get(m, split) != split for m in (one, two)):
                one, two, first, second = _pair(same, kind, rng)
            owner[one] = owner[two] = split
            rows.append({"sentence1": first, "sentence2": second, "label": LABELS[same]})
    return {split: out[split] for split in sizes}


def _pair(same: bool, kind: str, rng: random.Random) -> tuple[Meaning, Meaning, str, str]:
    """Two meanings, and a sentence of each."""
    one = draw(kind, rng)
    two = one if same else changed(one, rng)
    return one, two, say(one, rng), say(two, rng)
