"""Machines, screens and speakers."""

from __future__ import annotations

from .actions import Action, Device, asks
from .words import LIVED_IN

APPLIANCES: tuple[Device, ...] = (
    Device(
        "speaker",
        ("speaker", "speaker", "speakers", "music"),
        ("der Lautsprecher", "den Lautsprecher", "alle Lautsprecher"),
        {
            "play": Action(
                "playing {v}{inplace}",
                "play {v}{inplace}",
                "ich spiele {v}{inplace}",
                "spiele{when} {v}{inplace}",
                asks("""@play (some|) {v} {where}
@put on (some|) {v} {where}
@put (some|) {v} on {where}
@play (some|a little|) {v} on the {place} speaker
@start (playing|) (some|) {v} {where}
I (want|would like) to (hear|listen to) (some|) {v} {where}
I'm in the mood for (some|) {v} {where}
how about (some|a bit of) {v} {where}
some {v} {where}"""),
                kind="music",
                weight=2.5,
            ),
            "stop": Action(
                "the music{inplace} is off",
                "stop the music{inplace}",
                "die Musik{inplace} ist aus",
                "stelle die Musik{inplace}{when} aus",
                asks("""@(stop|kill) the music {where}
@turn off the music {where}
@turn the music off {where}
@stop playing {where}
music off {where}
(no more|enough) music {where}"""),
            ),
            "pause": Action(
                "the music{inplace} is paused",
                "pause the music{inplace}",
                "die Musik{inplace} ist angehalten",
                "halte die Musik{inplace}{when} an",
                asks("@pause the music {where}\n@pause the (song|speaker) {where}\nmusic on pause {where}"),
                timed=False,
                weight=0.5,
            ),
            "volume": Action(
                "the volume{inplace} is set to {v}",
                "set the volume{inplace} to {v}",
                "die Lautstärke{inplace} ist auf {v} gestellt",
                "stelle die Lautstärke{inplace}{when} auf {v}",
                asks("""@set the volume to {v} {where}
@set the volume {where} to {v}
@turn the music (down|up|) to {v} {where}
@turn the (volume|speaker|music) (down|up) to {v} {where}
volume (to|at|) {v} {where}"""),
                kind="percent",
            ),
            "up": Action(
                "the music{inplace} is louder",
                "turn up the music{inplace}",
                "die Musik{inplace} ist lauter",
                "stelle die Musik{inplace}{when} lauter",
                asks("""@turn (up the music|the music up) {where}
@turn (up the volume|the volume up) {where}
@make (it|the music) (a bit|a little|) louder {where}
the music is too (quiet|soft) {where}
I can't hear the music {where}
louder music {where}"""),
                timed=False,
                weight=0.8,
            ),
            "down": Action(
                "the music{inplace} is quieter",
                "turn down the music{inplace}",
                "die Musik{inplace} ist leiser",
                "stelle die Musik{inplace}{when} leiser",
                asks("""@turn (down the music|the music down) {where}
@turn (down the volume|the volume down) {where}
@make (it|the music) (a bit|a little|) quieter {where}
the music is too loud {where}
it's too loud {where}
quieter music {where}"""),
                timed=False,
                weight=0.8,
            ),
        },
        LIVED_IN,
        weight=1.8,
        english_all="all speakers",
    ),
)
