"""The names of timers, with their German forms."""

from __future__ import annotations

TIMERS = {
    "pasta": "Nudel",
    "egg": "Eier",
    "tea": "Tee",
    "pizza": "Pizza",
    "rice": "Reis",
    "cake": "Kuchen",
    "bread": "Brot",
    "nap": "Schlaf",
    "workout": "Sport",
    "laundry": "Wäsche",
    "cookie": "Keks",
    "potato": "Kartoffel",
    "soup": "Suppen",
    "homework": "Hausaufgaben",
}
