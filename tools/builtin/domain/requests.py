"""From a command to what a person says: the other direction of what the model learns."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from .actions import Action
from .commands import ALL, Command
from .devices import DEVICES
from .grammar import expand
from .named import NAMED
from .names import TIMERS
from .phrases import say_noun, say_place, say_value, verb_is, with_time, wrap
from .words import DOOR_SAID, DOORS, ROOMS, pick_minutes, say_minutes


@dataclass(frozen=True)
class Request:
    """What is said, what it asks for, and `key`: the template with the slots that fill it."""

    text: str
    commands: tuple[Command, ...]
    key: str


def _choose(weights: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


_KINDS = {d.key: d.weight for d in DEVICES.values()} | {k: n.weight for k, n in NAMED.items()}


def _device_slots(c: Command, action: Action, rng: random.Random, template: str) -> tuple[Command, dict[str, str]]:
    device = DEVICES[c.device]
    value, said = say_value(action.kind, rng)
    if action.kind == "delta" and "{by}" not in template:
        value, said = None, ""
    noun = say_noun(device, c.room, rng)
    where, place = say_place(c.room, rng)
    return replace(c, value=value), {
        "n": noun,
        "v": said,
        "by": said,
        "where": where,
        "place": place,
        "is": verb_is(noun),
    }


def _named_slots(c: Command, rng: random.Random, template: str) -> tuple[Command, dict[str, str]]:
    if c.device == "lock":
        name = ALL if rng.random() < 0.12 and " at {n}" not in template else rng.choice(list(DOORS))
        said = (
            rng.choice(("all doors", "all the doors", "the whole house"))
            if name == ALL
            else (rng.choice(("the ", "the ", "the ", "")) + rng.choice(DOOR_SAID.get(name, (name,))))
        )
        return replace(c, name=name), {"n": said, "is": "are" if said.endswith("doors") else "is"}
    minutes = pick_minutes(rng)
    timer = None if rng.random() < 0.4 else rng.choice(list(TIMERS))
    article = "an" if timer == "egg" else "a"
    value = float(minutes) if c.action == "start" else None
    return replace(c, name=timer, value=value), {
        "v": (v := say_minutes(minutes, rng)),
        "v_one": v.removesuffix("s"),
        "name": timer or "",
        "a_name": f"{article} {timer or ''}".strip(),
        "for_the": f"for the {timer}" if timer else "",
    }


def one_request(rng: random.Random) -> Request:
    """One command and one way to ask for it, without surface noise."""
    key = _choose(_KINDS, rng)
    actions = DEVICES[key].actions if key in DEVICES else NAMED[key].actions
    name = _choose({k: a.weight for k, a in actions.items()}, rng)
    action = actions[name]
    command = Command(key, name)
    template = rng.choice(action.asks)
    if key in DEVICES:
        rooms = DEVICES[key].rooms
        draw = rng.random()
        needs_place = action.needs_place or "{place}" in template
        if rooms and (draw < 0.84 or needs_place):
            command = replace(command, room=rng.choice(rooms))
        elif (
            rooms and draw < 0.90 and action.everywhere and DEVICES[key].english_all and not template.startswith("I'm")
        ):
            command = replace(command, room=ALL)
        command, slots = _device_slots(command, action, rng, template)
    else:
        command, slots = _named_slots(command, rng, template)
    bare = command
    body = template.removeprefix("@").replace("so @", "so ")
    ahead = ""
    if "{n}" in body and command.room in ROOMS and "{where}" not in body and rng.random() < 0.06:
        ahead = f"{slots['where']}{rng.choice((' ', ', '))}"  # "in the kitchen, turn on the light"
        slots["n"] = f"the {rng.choice(DEVICES[key].said)}"
        slots["is"] = verb_is(slots["n"])
    may_wait = template.startswith(("@", "{n} o", "{n} (to", "{n} (sh"))
    command, when = with_time(command, action, may_wait, rng)
    text = expand(body, rng, slots | {"when": when})
    when = "" if "{when}" in body else when
    text = wrap(text, when, rng) if template.startswith("@") else f"{text} {when}".strip()
    return Request(ahead + text, (command,), f"{template}|{bare}")


def two_requests(rng: random.Random) -> Request:
    """Two things in one breath: two devices for one verb, two rooms, or two unrelated commands."""
    style = rng.random()
    if style < 0.45:
        name = rng.choice(("on", "off"))
        keys = [k for k, d in DEVICES.items() if name in d.actions and d.weight > 0.4]
        first, second = rng.choice(keys), rng.choice(keys)
    else:
        while True:
            a, b = one_request(rng), one_request(rng)
            if not any(c.in_minutes or c.at or c.for_minutes for c in a.commands) and a.commands != b.commands:
                break
        joint = rng.choice((" and ", " and ", " and then ", ", then ", " and also ", ", and "))
        return Request(a.text + joint + b.text, a.commands + b.commands, f"{a.key}&{b.key}")
    return _one_verb(name, first, second, rng)


def _one_verb(name: str, first: str, second: str, rng: random.Random) -> Request:
    rooms = [rng.choice(DEVICES[k].rooms) if DEVICES[k].rooms else None for k in (first, second)]
    pair = [Command(k, name, room=r) for k, r in zip((first, second), rooms, strict=True)]
    if rng.random() < 0.5 and DEVICES[first].rooms:  # one device, two rooms
        pair[1] = replace(pair[0], room=rng.choice([r for r in DEVICES[first].rooms if r != rooms[0]]))
        one, two = (rng.choice(ROOMS[str(c.room)].said) for c in pair)
        noun = expand(f"the {one} and (the|) {two} {rng.choice(DEVICES[first].said)}", rng)
        if rng.random() < 0.5:
            prep, said = ROOMS[str(pair[0].room)].prep, rng.choice(DEVICES[first].said)
            noun = expand(f"the {said} {prep} the {one} and (the|{ROOMS[str(pair[1].room)].prep} the) {two}", rng)
    else:
        if pair[0] == pair[1]:
            return two_requests(rng)
        noun = " and ".join(say_noun(DEVICES[c.device], c.room, rng) for c in pair)
    verb = {
        "on": "(turn|switch) on {n}|(turn|switch) {n} on",
        "off": "(turn|switch) off {n}|turn {n} off",
        "open": "open {n}",
        "close": "(close|shut) {n}",
    }[name]
    moment, when = with_time(pair[0], DEVICES[first].actions[name], True, rng)
    if moment.for_minutes:
        moment, when = pair[0], ""
    both = tuple(replace(c, in_minutes=moment.in_minutes, at=moment.at) for c in pair)
    text = wrap(expand(f"({verb})", rng, {"n": noun}), when, rng)
    return Request(text, both, f"{verb}|{pair}")
