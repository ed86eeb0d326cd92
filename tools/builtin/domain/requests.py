"""From a command to what a person says: the other direction of what the model learns."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from .commands import ALL, COLORS, MUSIC, SPEEDS, Command
from .devices import DEVICES, Action, Device
from .grammar import expand, gerund
from .named import CAMERAS, GOODS, NAMED, SCENE_HINTS, SCENES, TASKS, TIMERS
from .words import DOOR_SAID, DOORS, ROOMS, pick_clock, pick_minutes, say_clock, say_minutes, say_number


@dataclass(frozen=True)
class Request:
    """What is said, what it asks for, and `key`: the template with the slots that fill it."""

    text: str
    commands: tuple[Command, ...]
    key: str


_WRAPS = (
    *["{i}"] * 12, "please {i}", "{i} please", "{i}, please", "(can|could|would|will) you {i}", "could you please {i}",
    "(can|could) you {i} for me", "{i} for me", "(I'd|I would) like you to {i}", "I want you to {i}",
    "(would|do) you mind {g}", "{i} (now|right now|right away)", "go ahead and {i}", "(I need|I want) to {i}",
    "you (can|could|should) {i} now", "can we {i}", "let's {i}", "how about {g}", "be so kind and {i}",
    "(is it possible|would it be possible) to {i}", "time to {i}", "{i} if you (can|could|don't mind)",
    "I was wondering if you could {i}", "why don't you {i}", "could you quickly {i}", "just {i}",
)  # fmt: skip
_OPENERS = ("hey", "hi", "hello", "um", "uh", "ok", "okay", "so", "well", "hey there", "listen", "oh", "alright",
            "ok so", "er", "home", "hey home", "excuse me", "sorry", "darling", "computer")  # fmt: skip
_CLOSERS = ("thanks", "thank you", "thx", "will you", "okay", "if possible", "please", "cheers", "would you")


def _percent(rng: random.Random) -> tuple[float, str]:
    if rng.random() < 0.12:
        value, said = rng.choice(((50, "half"), (25, "a quarter"), (75, "three quarters"), (100, "full"),
                                  (100, "the maximum"), (50, "fifty-fifty"), (100, "max")))  # fmt: skip
        if said != "fifty-fifty":
            return float(value), said
    n = rng.choice(range(5, 101, 5)) if rng.random() < 0.6 else rng.randint(1, 99)
    if rng.random() < 0.25:
        return float(n), f"{n}%"
    return float(n), f"{say_number(n, rng)} {rng.choice(('percent', 'percent', 'percent', 'per cent'))}"


def _degrees(rng: random.Random, low: int, high: int) -> tuple[float, str]:
    n = rng.randint(low, high) + (0.5 if rng.random() < 0.08 else 0.0)
    unit = rng.choice((" degrees", " degrees", " degrees", "", "°", " degrees celsius", "°C"))
    said = say_number(n, rng, 1.0 if unit.startswith("°") else 0.55)
    return n, said + unit


def _value(kind: str, rng: random.Random) -> tuple[float | str | None, str]:
    """A value of the kind, and how it is said."""
    if kind == "percent":
        return _percent(rng)
    if kind == "degrees":
        return _degrees(rng, 15, 27)
    if kind == "oven":
        n = float(rng.choice(range(120, 260, 10)) if rng.random() < 0.8 else rng.choice(range(125, 255, 10)))
        return n, say_number(n, rng, 0.7) + rng.choice((" degrees", " degrees", "", "°"))
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


def _noun(device: Device, room: str | None, rng: random.Random) -> str:
    """The device with its place, as said."""
    said = rng.choice(device.said)
    if room is None:
        return rng.choice((f"the {said}", f"the {said}", f"my {said}", f"the {said}"))
    if room == ALL:
        many = device.english_all.removeprefix("all ")
        return expand(f"(all (the|) {many}|all {many} in the house|the {many} everywhere|every single {device.key})", rng)
    place = ROOMS[room]
    where = rng.choice(place.said)
    return expand(f"(the {where} {said}|the {where} {said}|the {said} {place.prep} the {where}|{where} {said})", rng)


def _place(room: str | None, rng: random.Random) -> tuple[str, str]:
    """({where}, {place}) as said."""
    if room is None:
        return rng.choice(("", "in here", "", "here")), ""
    if room == ALL:
        return rng.choice(("everywhere", "in the whole house", "in all rooms", "in every room")), "whole house"
    said = rng.choice(ROOMS[room].said)
    return f"{ROOMS[room].prep} the {said}", said


def _is(noun: str) -> str:
    return "are" if noun.split(" in ")[0].split(" on ")[0].endswith(("s", "everywhere")) else "is"


def _timing(c: Command, action: Action, imperative: bool, rng: random.Random) -> tuple[Command, str]:
    """The command with a time of its own, and how that is said; mostly neither."""
    if not imperative or rng.random() > (0.75 if c.device == "reminder" else 0.3):
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


def _wrap(text: str, when: str, rng: random.Random) -> str:
    """An imperative in one of its polite or impolite forms, with its time at either end."""
    if when and rng.random() < 0.2 and not when.startswith("for"):
        return f"{when}{rng.choice((' ', ', '))}{_wrap(text, '', rng)}"
    text = f"{text} {when}".strip() if when else text
    wrap = expand(rng.choice(_WRAPS), rng)
    if when and "now" in wrap or " now" in text:
        wrap = "{i}"
    return wrap.replace("{i}", text).replace("{g}", gerund(text) if "{g}" in wrap else "")


def _choose(weights: dict[str, float], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


_KINDS = {d.key: d.weight for d in DEVICES.values()} | {k: n.weight for k, n in NAMED.items()}


def _device_slots(c: Command, action: Action, rng: random.Random, template: str) -> tuple[Command, dict[str, str]]:
    device = DEVICES[c.device]
    value, said = _value(action.kind, rng)
    if action.kind == "delta" and "{by}" not in template:
        value, said = None, ""
    noun = _noun(device, c.room, rng)
    where, place = _place(c.room, rng)
    return replace(c, value=value), {"n": noun, "v": said, "by": said, "where": where, "place": place, "is": _is(noun)}


def _named_slots(c: Command, rng: random.Random, template: str) -> tuple[Command, dict[str, str]]:
    if c.device in ("lock", "door"):
        name = ALL if c.device == "lock" and rng.random() < 0.12 and " at {n}" not in template else rng.choice(list(DOORS))
        said = rng.choice(("all doors", "all the doors", "the whole house")) if name == ALL else (
            rng.choice(("the ", "the ", "the ", "")) + rng.choice(DOOR_SAID.get(name, (name,))))  # fmt: skip
        return replace(c, name=name), {"n": said, "is": "are" if said.endswith("doors") else "is"}
    if c.device == "timer":
        minutes = pick_minutes(rng)
        timer = None if rng.random() < 0.4 else rng.choice(list(TIMERS))
        article = "an" if timer == "egg" else "a"
        value = float(minutes) if c.action == "start" else None
        return replace(c, name=timer, value=value), {
            "v": (v := say_minutes(minutes, rng)), "v_one": v.removesuffix("s"), "name": timer or "", "a_name": f"{article} {timer or ''}".strip(),
            "for_the": f"for the {timer}" if timer else ""}  # fmt: skip
    if c.device == "scene":
        scene = rng.choice(list(SCENES))
        said = rng.choice(SCENES[scene][1])
        return replace(c, name=scene), {"n": expand(f"((the|) {said} (scene|mode)|the {said} scene|{said} mode)", rng)}
    if c.device == "camera":
        camera = rng.choice(list(CAMERAS))
        return replace(c, name=camera), {"n": f"the {camera}", "name": camera}
    item = rng.choice(list(TASKS if c.device == "reminder" else GOODS))
    return replace(c, value=item), {"v": item}


def one_request(rng: random.Random) -> Request:
    """One command and one way to ask for it, without surface noise."""
    key = _choose(_KINDS, rng)
    actions = DEVICES[key].actions if key in DEVICES else NAMED[key].actions
    name = _choose({k: a.weight for k, a in actions.items()}, rng)
    action = actions[name]
    command = Command(key, name)
    if key == "scene" and rng.random() < 0.5:
        command = replace(command, name=rng.choice(list(SCENES)))
        template = rng.choice(SCENE_HINTS[str(command.name)])
        return Request(expand(template, rng), (command,), f"{template}|{command}")
    template = rng.choice(action.asks)
    if key in DEVICES:
        rooms = DEVICES[key].rooms
        draw = rng.random()
        needs_place = action.needs_place or "{place}" in template
        if rooms and draw < 0.84 or rooms and needs_place:
            command = replace(command, room=rng.choice(rooms))
        elif rooms and draw < 0.90 and action.everywhere and DEVICES[key].english_all and not template.startswith("I'm"):
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
        slots["is"] = _is(slots["n"])
    may_wait = template.startswith(("@", "{n} o", "{n} (to", "{n} (sh"))
    command, when = _timing(command, action, may_wait, rng)
    text = expand(body, rng, slots | {"when": when})
    when = "" if "{when}" in body else when
    text = _wrap(text, when, rng) if template.startswith("@") else f"{text} {when}".strip()
    return Request(ahead + text, (command,), f"{template}|{bare}")


def two_requests(rng: random.Random) -> Request:
    """Two things in one breath: two devices for one verb, two rooms, or two unrelated commands."""
    style = rng.random()
    if style < 0.45:
        name = rng.choice(("on", "off"))
        keys = [k for k, d in DEVICES.items() if name in d.actions and d.weight > 0.4]
        first, second = rng.choice(keys), rng.choice(keys)
    elif style < 0.6:
        name = rng.choice(("open", "close"))
        first, second = rng.choice(("blinds", "curtains", "window")), rng.choice(("blinds", "curtains", "window"))
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
        noun = " and ".join(_noun(DEVICES[c.device], c.room, rng) for c in pair)
    verb = {"on": "(turn|switch) on {n}|(turn|switch) {n} on", "off": "(turn|switch) off {n}|turn {n} off",
            "open": "open {n}", "close": "(close|shut) {n}"}[name]  # fmt: skip
    timed = [_timing(c, DEVICES[c.device].actions[name], True, rng) for c in pair[:1]][0]
    moment, when = (timed[0], timed[1]) if not timed[0].for_minutes else (pair[0], "")
    both = tuple(replace(c, in_minutes=moment.in_minutes, at=moment.at) for c in pair)
    text = _wrap(expand(f"({verb})", rng, {"n": noun}), when, rng)
    return Request(text, both, f"{verb}|{pair}")


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
    question = text.lower().startswith(("can", "could", "would", "will", "is ", "are ", "did", "what", "who", "how",
                                        "do you", "why"))  # fmt: skip
    return text + rng.choice(("", "", "", "?" if question else ".", "?" if question else ".", "" if question else "!"))
