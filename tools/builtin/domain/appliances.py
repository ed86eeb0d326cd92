"""Machines, screens and speakers."""

from __future__ import annotations

from .actions import Action, Device, asks, off, on
from .words import LIVED_IN

APPLIANCES: tuple[Device, ...] = (
    Device(
        "tv",
        ("tv", "TV", "television", "telly", "tv"),
        ("der Fernseher", "den Fernseher", "alle Fernseher"),
        {
            "on": on(),
            "off": off(),
            "volume": Action(
                "the volume of {n} is set to {v}",
                "set the volume of {n} to {v}",
                "die Lautstärke {gen} ist auf {v} gestellt",
                "stelle die Lautstärke {gen}{when} auf {v}",
                asks("""@set the volume of {n} to {v}
@turn {n} (up|down) to {v} volume
@put {n} (at|to|on) {v} volume
@set {n} volume to {v}
{n} volume (to|at|) {v}"""),
                kind="percent",
                everywhere=False,
            ),
        },
        LIVED_IN,
        weight=0.9,
        english_all="all televisions",
    ),
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
    Device(
        "vacuum",
        ("vacuum", "robot vacuum", "vacuum cleaner", "robot", "hoover"),
        ("der Saugroboter", "den Saugroboter", "alle Saugroboter"),
        {
            "clean": Action(
                "the vacuum is cleaning {cleaned}",
                "vacuum {cleaned}",
                "der Saugroboter saugt {inplace}",
                "lasse den Saugroboter{when} {inplace} saugen",
                asks("""@(vacuum|hoover|sweep) the {place}
@clean the {place} (floor|)
@vacuum the {place} floor
@send the (vacuum|robot vacuum|robot|hoover) (to|into) the {place}
@have the (vacuum|robot) clean the {place}
@start (the vacuum|vacuuming|cleaning|hoovering) {where}
the {place} (is dirty|floor is dirty|needs (vacuuming|a clean|cleaning)|is a mess)
there are crumbs (all over|on the floor of) the {place}
the floor is (dirty|dusty|full of crumbs) {where}"""),
                needs_place=True,
                everywhere=False,
            ),
        },
        LIVED_IN,
        weight=1.0,
    ),
    Device(
        "humidifier",
        ("humidifier",),
        ("der Luftbefeuchter", "den Luftbefeuchter", "alle Luftbefeuchter"),
        {"on": on("the air is (too|so|very) dry {where}"), "off": off()},
        LIVED_IN,
        weight=0.5,
        english_all="all humidifiers",
    ),
    Device(
        "air purifier",
        ("air purifier", "purifier", "air cleaner"),
        ("der Luftreiniger", "den Luftreiniger", "alle Luftreiniger"),
        {"on": on(), "off": off()},
        LIVED_IN,
        weight=0.4,
        english_all="all air purifiers",
    ),
    Device(
        "coffee machine",
        ("coffee machine", "coffee maker", "espresso machine"),
        ("die Kaffeemaschine", "die Kaffeemaschine", ""),
        {
            "on": on("""@make (me|us|) (a|some|a cup of|a pot of|a nice) coffee
@(brew|get) (me|) (some|a) coffee (going|started|)
I (need|want|could use|would love) (a|some|a strong) coffee"""),
            "off": off(),
        },
        weight=0.7,
    ),
    Device(
        "kettle",
        ("kettle",),
        ("der Wasserkocher", "den Wasserkocher", ""),
        {
            "on": on("@boil (the|some) (water|kettle)\nI (want|would like|fancy) (a|some) (tea|cup of tea)"),
            "off": off(),
        },
        weight=0.4,
    ),
    Device(
        "oven",
        ("oven",),
        ("der Ofen", "den Ofen", ""),
        {
            "on": on(),
            "off": off(),
            "set": Action(
                "{n} {is} set to {v}",
                "set {n} to {v}",
                "{n} {ist} auf {v} gestellt",
                "stelle {a}{when} auf {v}",
                asks("""@(preheat|heat) {n} to {v}
@set {n} to {v}
@turn {n} (up|down|) to {v}
{n} (to|at) {v}"""),
                kind="oven",
                weight=2.0,
            ),
        },
        weight=0.6,
    ),
    Device(
        "washing machine",
        ("washing machine", "washer"),
        ("die Waschmaschine", "die Waschmaschine", ""),
        {"on": on("@(start|run) {n}\n@start the laundry"), "off": off("@stop {n}")},
        weight=0.5,
    ),
    Device(
        "dishwasher",
        ("dishwasher",),
        ("die Spülmaschine", "die Spülmaschine", ""),
        {"on": on("@(start|run) {n}\nthe dishes are dirty"), "off": off("@stop {n}")},
        weight=0.5,
    ),
    Device(
        "dryer",
        ("dryer", "tumble dryer"),
        ("der Trockner", "den Trockner", ""),
        {"on": on("@(start|run) {n}"), "off": off("@stop {n}")},
        weight=0.4,
    ),
    Device(
        "sprinkler",
        ("sprinkler", "sprinklers", "garden sprinkler"),
        ("der Rasensprenger", "den Rasensprenger", ""),
        {
            "on": on("@water the (garden|lawn|grass|flowers|plants)\nthe (lawn|garden|grass) (is|looks) (dry|thirsty)"),
            "off": off("@stop watering the (garden|lawn|grass)"),
        },
        weight=0.6,
    ),
    Device(
        "alarm",
        ("alarm", "alarm", "alarm system", "security system", "burglar alarm"),
        ("die Alarmanlage", "die Alarmanlage", ""),
        {
            "arm": Action(
                "{n} {is} armed",
                "arm {n}",
                "{n} {ist} scharf",
                "schalte {a}{when} scharf",
                asks("@arm {n}\n@(set|activate|enable) {n}\n@turn (on {n}|{n} on)\n@switch {n} on"),
            ),
            "disarm": Action(
                "{n} {is} disarmed",
                "disarm {n}",
                "{n} {ist} nicht mehr scharf",
                "entschärfe {a}{when}",
                asks("@disarm {n}\n@(deactivate|disable) {n}\n@turn (off {n}|{n} off)\n@switch {n} off"),
            ),
        },
        weight=0.7,
    ),
)
