"""What a home can do: devices, their actions, the replies in English and German, and how people ask.

A template of an action is imperative if it begins with ``@`` (then it can be wrapped: "could you ..."), else it
is a sentence of its own. Slots: {n} the device with its place, {v} the value, {where} the place alone
("in the kitchen"), {name} a name. In replies {is}/{ist} agree in number and {for} is a German duration.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .words import INDOOR, LIVED_IN, ROOMS


@dataclass(frozen=True)
class Action:
    """One thing a device can do."""

    english: str  # the state once done: "{n} {is} on"
    english_do: str  # what will be done later: "turn on {n}"
    german: str
    german_do: str
    asks: tuple[str, ...]
    kind: str = ""  # of the value: percent, degrees, color, music, oven, delta, speed, minutes ...; "" for none
    weight: float = 1.0
    timed: bool = True  # may be asked for later
    lasting: bool = False  # may be asked for a while ("for 20 minutes")
    everywhere: bool = True  # may be asked for all rooms
    needs_place: bool = False


@dataclass(frozen=True)
class Device:
    """A device of the home; `rooms` is empty if there is only one, without a place."""

    key: str
    said: tuple[str, ...]
    german: tuple[str, str, str]  # nominative, accusative, all of them
    actions: dict[str, Action] = field(default_factory=dict)
    rooms: tuple[str, ...] = ()
    plural: bool = False
    weight: float = 1.0
    english_all: str = ""


def _asks(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines() if line.strip())


_ON = _asks("""@turn on {n}
@turn {n} on
@switch on {n}
@switch {n} on
@put {n} on
@power (on|up) {n}
@(enable|activate) {n}
{n} on
I (want|need|would like) {n} on
{n} should be on""")
_OFF = _asks("""@turn off {n}
@turn {n} off
@switch off {n}
@switch {n} off
@(kill|disable) {n}
@power (off|down) {n}
{n} off
I (want|need|would like) {n} off
{n} should be off
we (don't|do not) need {n} (any more|anymore|right now|now)""")


def _on(extra: str = "", **kw: object) -> Action:
    return Action("{n} {is} on", "turn on {n}", "{n} {ist}{for} an", "schalte {a}{when} ein",
                  _ON + _asks(extra), lasting=True, **kw)  # type: ignore[arg-type]  # fmt: skip


def _off(extra: str = "") -> Action:
    return Action("{n} {is} off", "turn off {n}", "{n} {ist} aus", "schalte {a}{when} aus", _OFF + _asks(extra))


def _query(asks: str) -> Action:
    return Action("let me check {n}", "check {n}", "ich prüfe {a}", "prüfe {a}{when}", _asks(asks),
                  weight=0.6, timed=False)  # fmt: skip


def _covers(raise_word: str, lower_word: str) -> dict[str, Action]:
    return {
        "open": Action("{n} {is} open", "open {n}", "{n} {ist} offen", "öffne {a}{when}",
                       _asks(f"""@open {{n}}
@(raise|pull up) {{n}}
@{raise_word}
@open up {{n}}
{{n}} (up|open)
let (some|the) (light|sun|sunshine|daylight) into the {{place}}
I (want|would like) {{n}} open""")),
        "close": Action("{n} {is} closed", "close {n}", "{n} {ist} geschlossen", "schließe {a}{when}",
                        _asks(f"""@close {{n}}
@(shut|lower) {{n}}
@{lower_word}
{{n}} (down|closed|shut)
the sun is (shining|blazing|glaring) into the {{place}}
the neighbours can (see|look) into the {{place}}
I (want|would like) {{n}} closed""")),
        "set": Action("{n} {is} set to {v}", "set {n} to {v}", "{n} {ist} auf {v} gestellt", "stelle {a}{when} auf {v}",
                      _asks("""@set {n} to {v}
@put {n} (at|to) {v}
@(bring|adjust) {n} to {v}
{n} (to|at) {v}
@open {n} to {v}"""), kind="percent"),
    }  # fmt: skip


DEVICES: dict[str, Device] = {
    d.key: d
    for d in (
        Device("light", ("light", "light", "lights", "lights", "lamp", "lamp", "ceiling light", "lighting"),
               ("das Licht", "das Licht", "alle Lichter"), {
            "on": _on("""@(put|have|get) some light on {where}
@light up the {place}
it's (too|so|very|really|awfully|pretty|a bit too) dark {where}
it is (too|so|very|really|pitch) dark {where}
I (can't|can not|cannot) see (a thing|anything|much) {where}
let there be light {where}
we need (some|more) light {where}""", weight=2.0),
            "off": _off("""@turn out {n}
(nobody|no one) is {where}, so @turn off {n}
lights out {where}
someone left {n} on"""),
            "set": Action("{n} {is} set to {v}", "set {n} to {v}", "{n} {ist} auf {v} gestellt",
                          "stelle {a}{when} auf {v}", _asks("""@dim {n} to {v}
@dim {n} (down|) to (about|around|roughly|) {v}
@set {n} to {v}
@set {n} (at|to) {v} (brightness|)
@set the brightness of {n} to {v}
@turn {n} (down|up) to {v}
@brighten {n} to {v}
@bring {n} (up|down|) to (about|around|) {v}
@put {n} (at|on) {v}
@make {n} {v} bright
{n} (to|at) {v}
I (want|need|would like) {n} at {v}
{v} brightness (for|on) {n}"""), kind="percent", weight=2.0),
            "up": Action("{n} {is} brighter", "brighten {n}", "{n} {ist} heller", "mache {a}{when} heller",
                         _asks("""@(brighten|turn up) {n} (a bit|a little|)
@make {n} (a bit|a little|) brighter
@turn {n} up (a bit|a little|)
{n} {is} too (dim|weak)
more light {where}"""), weight=0.6),
            "down": Action("{n} {is} dimmer", "dim {n}", "{n} {ist} dunkler", "mache {a}{when} dunkler",
                           _asks("""@dim {n} (a bit|a little|)
@make {n} (a bit|a little|) (dimmer|darker|less bright)
@turn {n} down (a bit|a little|)
@turn down {n}
{n} {is} too bright
it's (too|so|far too|much too) bright {where}
less light {where}"""), weight=0.6),
            "color": Action("{n} {is} {v} now", "make {n} {v}", "{n} {ist} jetzt {v}", "stelle {a}{when} auf {v}",
                            _asks("""@make {n} {v}
@turn {n} {v}
@set {n} to {v}
@change {n} to {v}
@change the (color|colour) of {n} to {v}
{n} (in|to) {v}
@give me {v} light {where}
I (want|would like) {v} light {where}"""), kind="color"),
            "get": _query("""{is} {n} (still|) on
@check (if|whether) {n} {is} (on|off)
did I (leave|forget) {n} (on|) """),
        }, tuple(ROOMS), weight=4.0, english_all="all lights"),
        Device("heating", ("heating", "heating", "heat", "thermostat", "radiator"),
               ("die Heizung", "die Heizung", "alle Heizungen"), {
            "set": Action("{n} {is} set to {v}", "set {n} to {v}", "{n} {ist} auf {v} gestellt",
                          "stelle {a}{when} auf {v}", _asks("""@set {n} to {v}
@turn {n} (up|down|) to {v}
@put {n} (at|on|to) {v}
@heat the {place} to {v}
@set the temperature {where} to {v}
@(set|turn|change) the {place} temperature to {v}
@(warm|get) the {place} (up|) to {v}
@make it {v} {where}
@keep the {place} at {v}
{n} (to|at) {v}
I (want|would like|need) it (to be|) {v} {where}
I'd like {v} {where}"""), kind="degrees", weight=2.5, everywhere=False),
            "up": Action("{n} {is} turned up{by}", "turn up {n}{by}", "{n} {ist}{by} höher gestellt",
                         "stelle {a}{when}{by} höher", _asks("""@turn up {n} {by}
@turn {n} up {by}
@(bump|crank) up {n} {by}
@raise {n} {by}
@(raise|turn up) the temperature {where} {by}
@make it {by} warmer {where}
it's (freezing|cold|chilly|too cold|so cold|really cold|a bit cold|ice cold|quite cool) {where}
it is (freezing|cold|chilly|too cold|very cold) {where}
I'm (freezing|cold|shivering) {where}
my (feet|hands|fingers) are (freezing|cold) {where}
the {place} is (freezing|too cold|cold|chilly|an icebox|like a fridge)"""), kind="delta", weight=1.5),
            "down": Action("{n} {is} turned down{by}", "turn down {n}{by}", "{n} {ist}{by} niedriger gestellt",
                           "stelle {a}{when}{by} niedriger", _asks("""@turn down {n} {by}
@turn {n} down {by}
@lower {n} {by}
@(lower|turn down) the temperature {where} {by}
@make it {by} (cooler|colder) {where}
it's (too hot|too warm|so hot|boiling|roasting|really hot|a bit warm|sweltering) {where}
it is (too hot|too warm|boiling|very warm) {where}
I'm (sweating|boiling|melting) {where}
the {place} is (too hot|too warm|boiling|like an oven|like a sauna)"""), kind="delta", weight=1.2),
            "on": _on(), "off": _off(),
            "get": Action("let me check the temperature{inplace}", "check the temperature{inplace}",
                          "ich prüfe die Temperatur{inplace}", "prüfe die Temperatur{inplace}",
                          _asks("""(what's|what is) the temperature {where}
how (warm|cold|hot) is it {where}
how many degrees is it {where}
@(tell|give) me the temperature {where}
@check the temperature {where}
is it (warm|cold) {where}"""), timed=False, everywhere=False, weight=0.8),
        }, LIVED_IN, weight=2.6, english_all="all radiators"),
        Device("blinds", ("blinds", "blinds", "shutters", "shades", "roller blinds"),
               ("die Rollos", "die Rollos", "alle Rollos"), _covers("roll up {n}", "roll down {n}"),
               LIVED_IN, plural=True, weight=1.6, english_all="all blinds"),
        Device("curtains", ("curtains", "curtains", "drapes"), ("die Vorhänge", "die Vorhänge", "alle Vorhänge"),
               {k: a for k, a in _covers("throw open {n}", "(draw|pull) {n}").items() if k != "set"},
               LIVED_IN, plural=True, weight=0.9, english_all="all curtains"),
        Device("window", ("window", "window", "windows"), ("das Fenster", "das Fenster", "alle Fenster"), {
            "open": Action("{n} {is} open", "open {n}", "{n} {ist}{for} offen", "öffne {a}{when}", _asks("""@open {n}
@open up {n}
@let (some|) fresh air into the {place}
@air (out|) the {place}
it's (stuffy|stale|musty|so stuffy) {where}
it (smells|stinks) {where}
we need (some|) fresh air {where}
{n} open"""), lasting=True),
            "close": Action("{n} {is} closed", "close {n}", "{n} {ist} geschlossen", "schließe {a}{when}",
                            _asks("""@close {n}
@shut {n}
there's a draught {where}
it's (raining|drafty|draughty) {where}
{n} (shut|closed)""")),
            "get": _query("""{is} {n} (open|closed|shut)
@check (if|whether) {n} {is} (open|closed)
did I (close|shut) {n}"""),
        }, INDOOR, weight=1.2, english_all="all windows"),
        Device("fan", ("fan", "fan", "ceiling fan"), ("der Ventilator", "den Ventilator", "alle Ventilatoren"), {
            "on": _on("@get some air moving {where}"), "off": _off(),
            "set": Action("{n} {is} set to {v}", "set {n} to {v}", "{n} {ist} auf {v} gestellt",
                          "stelle {a}{when} auf {v}", _asks("""@set {n} to {v}
@put {n} on {v}
@turn {n} (up|down|) to {v}
@run {n} (on|at) {v} (speed|)
{n} (on|to) {v}"""), kind="speed"),
        }, LIVED_IN, weight=0.9, english_all="all fans"),
        Device("air conditioner", ("air conditioner", "air conditioning", "AC", "ac", "aircon"),
               ("die Klimaanlage", "die Klimaanlage", "alle Klimaanlagen"), {
            "on": _on(), "off": _off(),
            "set": Action("{n} {is} set to {v}", "set {n} to {v}", "{n} {ist} auf {v} gestellt",
                          "stelle {a}{when} auf {v}", _asks("""@set {n} to {v}
@turn {n} (up|down|) to {v}
@cool the {place} (down|) to {v}
@put {n} on {v}
{n} (to|at) {v}"""), kind="degrees", everywhere=False),
        }, LIVED_IN, weight=0.7, english_all="all air conditioners"),
        Device("tv", ("tv", "TV", "television", "telly", "tv"), ("der Fernseher", "den Fernseher", "alle Fernseher"), {
            "on": _on(), "off": _off(),
            "volume": Action("the volume of {n} is set to {v}", "set the volume of {n} to {v}",
                             "die Lautstärke {gen} ist auf {v} gestellt", "stelle die Lautstärke {gen}{when} auf {v}",
                             _asks("""@set the volume of {n} to {v}
@turn {n} (up|down) to {v} volume
@put {n} (at|to|on) {v} volume
@set {n} volume to {v}
{n} volume (to|at|) {v}"""), kind="percent", everywhere=False),
        }, LIVED_IN, weight=0.9, english_all="all televisions"),
        Device("speaker", ("speaker", "speaker", "speakers", "music"),
               ("der Lautsprecher", "den Lautsprecher", "alle Lautsprecher"), {
            "play": Action("playing {v}{inplace}", "play {v}{inplace}", "ich spiele {v}{inplace}",
                           "spiele{when} {v}{inplace}", _asks("""@play (some|) {v} {where}
@put on (some|) {v} {where}
@put (some|) {v} on {where}
@play (some|a little|) {v} on the {place} speaker
@start (playing|) (some|) {v} {where}
I (want|would like) to (hear|listen to) (some|) {v} {where}
I'm in the mood for (some|) {v} {where}
how about (some|a bit of) {v} {where}
some {v} {where}"""), kind="music", weight=2.5),
            "stop": Action("the music{inplace} is off", "stop the music{inplace}", "die Musik{inplace} ist aus",
                           "stelle die Musik{inplace}{when} aus", _asks("""@(stop|kill) the music {where}
@turn off the music {where}
@turn the music off {where}
@stop playing {where}
music off {where}
(no more|enough) music {where}""")),
            "pause": Action("the music{inplace} is paused", "pause the music{inplace}",
                            "die Musik{inplace} ist angehalten", "halte die Musik{inplace}{when} an",
                            _asks("@pause the music {where}\n@pause the (song|speaker) {where}\nmusic on pause {where}"),
                            timed=False, weight=0.5),
            "volume": Action("the volume{inplace} is set to {v}", "set the volume{inplace} to {v}",
                             "die Lautstärke{inplace} ist auf {v} gestellt",
                             "stelle die Lautstärke{inplace}{when} auf {v}", _asks("""@set the volume to {v} {where}
@set the volume {where} to {v}
@turn the music (down|up|) to {v} {where}
@turn the (volume|speaker|music) (down|up) to {v} {where}
volume (to|at|) {v} {where}"""), kind="percent"),
            "up": Action("the music{inplace} is louder", "turn up the music{inplace}", "die Musik{inplace} ist lauter",
                         "stelle die Musik{inplace}{when} lauter", _asks("""@turn (up the music|the music up) {where}
@turn (up the volume|the volume up) {where}
@make (it|the music) (a bit|a little|) louder {where}
the music is too (quiet|soft) {where}
I can't hear the music {where}
louder music {where}"""), timed=False, weight=0.8),
            "down": Action("the music{inplace} is quieter", "turn down the music{inplace}",
                           "die Musik{inplace} ist leiser", "stelle die Musik{inplace}{when} leiser",
                           _asks("""@turn (down the music|the music down) {where}
@turn (down the volume|the volume down) {where}
@make (it|the music) (a bit|a little|) quieter {where}
the music is too loud {where}
it's too loud {where}
quieter music {where}"""), timed=False, weight=0.8),
        }, LIVED_IN, weight=1.8, english_all="all speakers"),
        Device("vacuum", ("vacuum", "robot vacuum", "vacuum cleaner", "robot", "hoover"),
               ("der Saugroboter", "den Saugroboter", "alle Saugroboter"), {
            "clean": Action("the vacuum is cleaning {cleaned}", "vacuum {cleaned}", "der Saugroboter saugt {inplace}",
                            "lasse den Saugroboter{when} {inplace} saugen", _asks("""@(vacuum|hoover|sweep) the {place}
@clean the {place} (floor|)
@vacuum the {place} floor
@send the (vacuum|robot vacuum|robot|hoover) (to|into) the {place}
@have the (vacuum|robot) clean the {place}
@start (the vacuum|vacuuming|cleaning|hoovering) {where}
the {place} (is dirty|floor is dirty|needs (vacuuming|a clean|cleaning)|is a mess)
there are crumbs (all over|on the floor of) the {place}
the floor is (dirty|dusty|full of crumbs) {where}"""), needs_place=True, everywhere=False),
        }, LIVED_IN, weight=1.0),
        Device("humidifier", ("humidifier",), ("der Luftbefeuchter", "den Luftbefeuchter", "alle Luftbefeuchter"),
               {"on": _on("the air is (too|so|very) dry {where}"), "off": _off()}, LIVED_IN, weight=0.5,
               english_all="all humidifiers"),
        Device("air purifier", ("air purifier", "purifier", "air cleaner"),
               ("der Luftreiniger", "den Luftreiniger", "alle Luftreiniger"), {"on": _on(), "off": _off()}, LIVED_IN,
               weight=0.4, english_all="all air purifiers"),
        Device("coffee machine", ("coffee machine", "coffee maker", "espresso machine"),
               ("die Kaffeemaschine", "die Kaffeemaschine", ""), {
            "on": _on("""@make (me|us|) (a|some|a cup of|a pot of|a nice) coffee
@(brew|get) (me|) (some|a) coffee (going|started|)
I (need|want|could use|would love) (a|some|a strong) coffee"""), "off": _off()}, weight=0.7),
        Device("kettle", ("kettle",), ("der Wasserkocher", "den Wasserkocher", ""), {
            "on": _on("@boil (the|some) (water|kettle)\nI (want|would like|fancy) (a|some) (tea|cup of tea)"),
            "off": _off()}, weight=0.4),
        Device("oven", ("oven",), ("der Ofen", "den Ofen", ""), {
            "on": _on(), "off": _off(),
            "set": Action("{n} {is} set to {v}", "set {n} to {v}", "{n} {ist} auf {v} gestellt",
                          "stelle {a}{when} auf {v}", _asks("""@(preheat|heat) {n} to {v}
@set {n} to {v}
@turn {n} (up|down|) to {v}
{n} (to|at) {v}"""), kind="oven", weight=2.0)}, weight=0.6),
        Device("washing machine", ("washing machine", "washer"), ("die Waschmaschine", "die Waschmaschine", ""),
               {"on": _on("@(start|run) {n}\n@start the laundry"), "off": _off("@stop {n}")}, weight=0.5),
        Device("dishwasher", ("dishwasher",), ("die Spülmaschine", "die Spülmaschine", ""),
               {"on": _on("@(start|run) {n}\nthe dishes are dirty"), "off": _off("@stop {n}")}, weight=0.5),
        Device("dryer", ("dryer", "tumble dryer"), ("der Trockner", "den Trockner", ""),
               {"on": _on("@(start|run) {n}"), "off": _off("@stop {n}")}, weight=0.4),
        Device("sprinkler", ("sprinkler", "sprinklers", "garden sprinkler"), ("der Rasensprenger", "den Rasensprenger", ""),
               {"on": _on("@water the (garden|lawn|grass|flowers|plants)\nthe (lawn|garden|grass) (is|looks) (dry|thirsty)"),
                "off": _off("@stop watering the (garden|lawn|grass)")}, weight=0.6),
        Device("alarm", ("alarm", "alarm", "alarm system", "security system", "burglar alarm"),
               ("die Alarmanlage", "die Alarmanlage", ""), {
            "arm": Action("{n} {is} armed", "arm {n}", "{n} {ist} scharf", "schalte {a}{when} scharf",
                          _asks("@arm {n}\n@(set|activate|enable) {n}\n@turn (on {n}|{n} on)\n@switch {n} on")),
            "disarm": Action("{n} {is} disarmed", "disarm {n}", "{n} {ist} nicht mehr scharf", "entschärfe {a}{when}",
                             _asks("@disarm {n}\n@(deactivate|disable) {n}\n@turn (off {n}|{n} off)\n@switch {n} off")),
        }, weight=0.7),
    )
}  # fmt: skip
