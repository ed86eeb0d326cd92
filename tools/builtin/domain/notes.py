"""Short texts about homes: what the base continues when its prompt is prose and not a request.

A few are records of what a home did, in JSON or German, so that the base has met the tokens which its adapters
will write. They never stand beside a request.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from .chatter import NAMES
from .devices import DEVICES
from .grammar import expand, listed
from .words import LIVED_IN, number_words

_HOWTO = {
    "clean the coffee machine": (
        "Switch it off and let it cool down",
        "Empty the water tank and the tray",
        "Mix water with a little vinegar and fill the tank",
        "Run the machine once without coffee",
        "Rinse the tank and run it again with clear water",
    ),
    "save energy": (
        "Turn off the lights when you leave a room",
        "Lower the heating by one degree",
        "Close the blinds at night to keep the warm air inside",
        "Run the dishwasher only when it is full",
        "Dry the laundry in the sun instead of the dryer",
    ),
    "change a light bulb": (
        "Switch off the light and wait until the bulb is cold",
        "Turn the old bulb to the left",
        "Choose a new bulb with the same socket",
        "Turn the new bulb to the right",
        "Switch on the light to check that it works",
    ),
    "air a room": (
        "Turn down the heating first",
        "Open the window wide for five to ten minutes",
        "Open a second window on the other side if you can",
        "Close the windows again",
        "Turn the heating back up",
    ),
    "set up a new lamp": (
        "Plug in the lamp and switch it on",
        "Open the app and choose the room",
        "Wait until the lamp blinks twice",
        "Give the lamp a short name that is easy to say",
        "Say the name once to test it",
    ),
    "sleep well": (
        "Dim the lights an hour before you go to bed",
        "Keep the bedroom cool, at about 18 degrees",
        "Close the curtains so that it is dark",
        "Switch off the television",
        "Open the window for a while",
    ),
    "make a good cup of tea": (
        "Boil fresh water in the kettle",
        "Warm the cup with a little hot water",
        "Put the tea into the cup and pour the water over it",
        "Set a timer for four minutes",
        "Take the tea out and add milk or honey",
    ),
    "leave the house for a week": (
        "Close all windows and lock the doors",
        "Turn down the heating",
        "Take out the trash and empty the fridge",
        "Ask a friend to water the plants",
        "Arm the alarm when you go",
    ),
    "clean the windows": (
        "Wait for a cloudy day, because the sun dries the glass too fast",
        "Wipe off the dust with a dry cloth",
        "Wash the glass with warm water and a little soap",
        "Pull the water off from top to bottom",
        "Dry the edges with a soft towel",
    ),
    "look after the robot vacuum": (
        "Empty the dust box after each tour",
        "Cut the hair off the brush",
        "Wipe the sensors with a dry cloth",
        "Wash the filter once a month",
        "Keep cables and toys off the floor",
    ),
}
_DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_LINKS = ("First, ", "Then ", "After that, ", "Next, ", "Finally, ")
_HABITS = (
    "{name} likes to read in the {room} in the (evening|afternoon)",
    "{name} cooks in the kitchen (every day|at noon)",
    "in the morning {name} opens the blinds in the {room}",
    "{name} always forgets to turn off the {device} in the {room}",
    "at night the {device} in the {room} is off",
    "the {device} in the {room} is (old|new|quiet|a bit loud|very bright)",
    "the {room} is the (warmest|coldest|brightest|quietest|smallest|biggest) room of the house",
    "the window of the {room} looks out on the (garden|street|park|river)",
    "{name} sleeps in the {room} (when it is hot|)",
    "when it is cold, {name} turns up the heating in the {room}",
    "on (Sunday|Saturday) {name} cleans the {room}",
    "in (winter|summer|spring|autumn) the {room} is (warm|cold|sunny|dark)",
    "{name} plays the piano in the {room}",
    "the cat (sleeps|plays|hides) in the {room}",
    "the dog waits at the front door until {name} comes home",
    "there (is a big table|is a soft sofa|is a small desk|are many books|are many plants) in the {room}",
    "{name} keeps the {room} at {number} degrees",
    "after dinner {name} dims the lights and puts on some music",
)
_FACTS = (
    "A smart home (can|is able to) switch lights, close blinds and lock doors. "
    "It does what you say, and it works without the internet.",
    "A thermostat keeps a room at the temperature you choose. "
    "When the room gets colder, it opens the valve of the radiator.",
    "A timer helps in the kitchen. Pasta needs about ten minutes, rice about fifteen, and an egg about six.",
    "Blinds keep out the sun in summer and the cold in winter. They are best closed at night.",
    "A lamp with warm white light is pleasant in the evening. Cold white light helps to work.",
    "The alarm should be armed when nobody is home. It should be disarmed before you open the door.",
    "Fresh air is good for everyone. Open the windows for ten minutes in the morning and in the evening.",
    "A robot vacuum cleans the floor while you are out. It goes back to its dock when the battery is low.",
    "The front door locks by itself at night. You can unlock it with your phone or with a key.",
    "A humidifier helps when the air is dry. In winter the heating makes the air in the house very dry.",
    "A scene sets many things at once. "
    "The movie night scene dims the lights, closes the blinds and turns on the television.",
    "The dishwasher uses less water than washing by hand. It is best to run it when it is full.",
)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _fill(template: str, rng: random.Random, room: str, name: str) -> str:
    device = rng.choice(("light", "lamp", "fan", "heating", "television", "radio"))
    number = rng.choice((str(n := rng.randint(16, 24)), number_words(n)))
    return expand(template, rng, {"room": room, "name": name, "device": device, "number": number})


def _how_to(rng: random.Random) -> str:
    task, steps = rng.choice(list(_HOWTO.items()))
    kept = sorted(rng.sample(range(len(steps)), rng.randint(3, len(steps))))
    head = rng.choice((f"How to {task}: ", f"How to {task}.\n", f"To {task}, follow these steps. ", f"How to {task}\n"))
    if rng.random() < 0.4:
        return head.rstrip(" ") + "".join(f"\n{i}. {steps[k]}." for i, k in enumerate(kept, 1)).lstrip(
            "\n" * head.endswith("\n")
        )
    links = (_LINKS[0], *rng.sample(_LINKS[1:4], len(kept) - 2), _LINKS[4])
    return head + " ".join(f"{link}{steps[k][0].lower()}{steps[k][1:]}." for link, k in zip(links, kept, strict=True))


def _house(rng: random.Random) -> str:
    rooms = rng.sample(LIVED_IN, 4)
    first, second = rng.sample(NAMES, 2)
    opening = expand(
        rng.choice(
            (
                f"{first} and {second} live in a (small|big|quiet|bright|new|old) house "
                f"with {number_words(rng.randint(3, 9))} rooms",
                f"The house of {first} and {second} has a {rooms[0]}, a {rooms[1]} and a {rooms[2]}",
                f"{first} has a (new|small|smart|cosy) home",
                f"This is the home of {first} and {second}",
                f"Notes about the house of {first}",
            )
        ),
        rng,
    )
    habits = rng.sample(_HABITS, rng.randint(2, 4))
    return " ".join(
        [
            opening + ".",
            *(_sentence(_fill(h, rng, rng.choice(rooms), rng.choice((first, second)))) for h in habits),
        ]
    )


def _room(rng: random.Random) -> str:
    room = rng.choice(LIVED_IN)
    has = rng.sample([d.key for d in DEVICES.values() if d.rooms and not d.plural and d.key != "vacuum"], 3)
    articles = [f"{'an' if d[0] in 'aeiou' else 'a'} {d}" if d != "heating" else "a radiator" for d in has]
    text = [f"The {room} has {articles[0]}, {articles[1]} and {articles[2]}."]
    text += [_sentence(_fill(h, rng, room, rng.choice(NAMES))) for h in rng.sample(_HABITS, 2)]
    return " ".join(text)


def _diary(rng: random.Random) -> str:
    day = rng.choice(_DAYS)
    room, other = rng.sample(LIVED_IN, 2)
    name = rng.choice(NAMES)
    when = rng.choice(("On", "Last"))
    weather = rng.choice(("cold", "hot", "raining", "windy", "very quiet"))
    did = rng.choice(("came home late", "stayed at home", f"worked in the {room}", "cooked for friends"))
    house = rng.choice(("turned on the light", "turned up the heating", "closed the blinds"))
    then = rng.choice(("went to bed", "made some tea", "listened to music", "read a book"))
    parts = [
        f"{when} {day} it was {weather}",
        f"{name} {did}",
        f"the house {house} in the {other}",
        f"then {name} {then} in the {room}",
    ]
    return " ".join(_sentence(p) for p in parts)


_KINDS: tuple[Callable[[random.Random], str], ...] = (
    _how_to,
    _house,
    _house,
    _room,
    _diary,
    lambda rng: expand(rng.choice(_FACTS), rng),
)


def note(rng: random.Random) -> str:
    """A text of a few sentences."""
    return rng.choice(_KINDS)(rng)
