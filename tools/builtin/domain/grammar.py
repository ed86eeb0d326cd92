"""A tiny template language: ``(a|b|)`` picks one alternative, ``{slot}`` is filled from a mapping.

Alternatives nest. A picked alternative is never a function of anything but the generator's state, so the
same ``random.Random`` gives the same text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

_INNERMOST = re.compile(r"\(([^()]*)\)")
_SPACES = re.compile(r"  +")


def expand(template: str, rng: random.Random, slots: Mapping[str, str] | None = None) -> str:
    """One text of `template`. Every ``(a|b)`` is resolved, innermost first, then the slots are filled.

    Raises KeyError when a slot of the template isn't in `slots`.
    """
    while True:
        chosen = _INNERMOST.sub(lambda m: rng.choice(m.group(1).split("|")), template)
        if chosen == template:
            break
        template = chosen
    text = template.format_map(slots) if slots is not None else template
    text = _SPACES.sub(" ", text).strip()
    return text.replace(" ,", ",").replace(" .", ".")


def listed(text: str) -> tuple[str, ...]:
    """The words of `text`; a hyphen stands for a space inside one."""
    return tuple(word.replace("-", " ") for word in text.split())


_GERUND = {
    "turn": "turning",
    "switch": "switching",
    "put": "putting",
    "set": "setting",
    "make": "making",
    "dim": "dimming",
    "brighten": "brightening",
    "open": "opening",
    "close": "closing",
    "shut": "shutting",
    "lock": "locking",
    "unlock": "unlocking",
    "lower": "lowering",
    "raise": "raising",
    "start": "starting",
    "stop": "stopping",
    "play": "playing",
    "pause": "pausing",
    "activate": "activating",
    "run": "running",
    "cancel": "canceling",
    "change": "changing",
    "bring": "bringing",
    "get": "getting",
    "heat": "heating",
    "warm": "warming",
    "check": "checking",
    "tell": "telling",
    "kill": "killing",
    "light": "lighting",
    "pull": "pulling",
    "crank": "cranking",
    "enable": "enabling",
    "bump": "bumping",
    "keep": "keeping",
    "roll": "rolling",
    "secure": "securing",
    "power": "powering",
    "adjust": "adjusting",
    "give": "giving",
    "have": "having",
    "count": "counting",
    "disable": "disabling",
}


def gerund(phrase: str) -> str:
    """The phrase with its first word, a verb of this domain, in its -ing form."""
    verb, _, rest = phrase.partition(" ")
    return f"{_GERUND[verb]} {rest}".strip()
