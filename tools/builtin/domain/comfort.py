"""Light, warmth and air: the devices that most rooms have."""

from __future__ import annotations

from .actions import Action, Device, asks, covers, off, on, query
from .words import LIVED_IN, ROOMS

COMFORT: tuple[Device, ...] = (
    Device(
        "light",
        ("light", "light", "lights", "lights", "lamp", "lamp", "ceiling light", "lighting"),
        ("das Licht", "das Licht", "alle Lichter"),
        {
            "on": on(
                """@(put|have|get) some light on {where}
@light up the {place}
it's (too|so|very|really|awfully|pretty|a bit too) dark {where}
it is (too|so|very|really|pitch) dark {where}
I (can't|can not|cannot) see (a thing|anything|much) {where}
let there be light {where}
we need (some|more) light {where}""",
                weight=2.0,
            ),
            "off": off("""@turn out {n}
(nobody|no one) is {where}, so @turn off {n}
lights out {where}
someone left {n} on"""),
            "set": Action(
                "{n} {is} set to {v}",
                "set {n} to {v}",
                "{n} {ist} auf {v} gestellt",
                "stelle {a}{when} auf {v}",
                asks("""@dim {n} to {v}
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
{v} brightness (for|on) {n}"""),
                kind="percent",
                weight=2.0,
            ),
            "up": Action(
                "{n} {is} brighter",
                "brighten {n}",
                "{n} {ist} heller",
                "mache {a}{when} heller",
                asks("""@(brighten|turn up) {n} (a bit|a little|)
@make {n} (a bit|a little|) brighter
@turn {n} up (a bit|a little|)
{n} {is} too (dim|weak)
more light {where}"""),
                weight=0.6,
            ),
            "down": Action(
                "{n} {is} dimmer",
                "dim {n}",
                "{n} {ist} dunkler",
                "mache {a}{when} dunkler",
                asks("""@dim {n} (a bit|a little|)
@make {n} (a bit|a little|) (dimmer|darker|less bright)
@turn {n} down (a bit|a little|)
@turn down {n}
{n} {is} too bright
it's (too|so|far too|much too) bright {where}
less light {where}"""),
                weight=0.6,
            ),
            "color": Action(
                "{n} {is} {v} now",
                "make {n} {v}",
                "{n} {ist} jetzt {v}",
                "stelle {a}{when} auf {v}",
                asks("""@make {n} {v}
@turn {n} {v}
@set {n} to {v}
@change {n} to {v}
@change the (color|colour) of {n} to {v}
{n} (in|to) {v}
@give me {v} light {where}
I (want|would like) {v} light {where}"""),
                kind="color",
            ),
            "get": query("""{is} {n} (still|) on
@check (if|whether) {n} {is} (on|off)
did I (leave|forget) {n} (on|) """),
        },
        tuple(ROOMS),
        weight=4.0,
        english_all="all lights",
    ),
    Device(
        "heating",
        ("heating", "heating", "heat", "thermostat", "radiator"),
        ("die Heizung", "die Heizung", "alle Heizungen"),
        {
            "set": Action(
                "{n} {is} set to {v}",
                "set {n} to {v}",
                "{n} {ist} auf {v} gestellt",
                "stelle {a}{when} auf {v}",
                asks("""@set {n} to {v}
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
I'd like {v} {where}"""),
                kind="degrees",
                weight=2.5,
                everywhere=False,
            ),
            "up": Action(
                "{n} {is} turned up{by}",
                "turn up {n}{by}",
                "{n} {ist}{by} höher gestellt",
                "stelle {a}{when}{by} höher",
                asks("""@turn up {n} {by}
@turn {n} up {by}
@(bump|crank) up {n} {by}
@raise {n} {by}
@(raise|turn up) the temperature {where} {by}
@make it {by} warmer {where}
it's (freezing|cold|chilly|too cold|so cold|really cold|a bit cold|ice cold|quite cool) {where}
it is (freezing|cold|chilly|too cold|very cold) {where}
I'm (freezing|cold|shivering) {where}
my (feet|hands|fingers) are (freezing|cold) {where}
the {place} is (freezing|too cold|cold|chilly|an icebox|like a fridge)"""),
                kind="delta",
                weight=1.5,
            ),
            "down": Action(
                "{n} {is} turned down{by}",
                "turn down {n}{by}",
                "{n} {ist}{by} niedriger gestellt",
                "stelle {a}{when}{by} niedriger",
                asks("""@turn down {n} {by}
@turn {n} down {by}
@lower {n} {by}
@(lower|turn down) the temperature {where} {by}
@make it {by} (cooler|colder) {where}
it's (too hot|too warm|so hot|boiling|roasting|really hot|a bit warm|sweltering) {where}
it is (too hot|too warm|boiling|very warm) {where}
I'm (sweating|boiling|melting) {where}
the {place} is (too hot|too warm|boiling|like an oven|like a sauna)"""),
                kind="delta",
                weight=1.2,
            ),
            "on": on(),
            "off": off(),
            "get": Action(
                "let me check the temperature{inplace}",
                "check the temperature{inplace}",
                "ich prüfe die Temperatur{inplace}",
                "prüfe die Temperatur{inplace}",
                asks("""(what's|what is) the temperature {where}
how (warm|cold|hot) is it {where}
how many degrees is it {where}
@(tell|give) me the temperature {where}
@check the temperature {where}
is it (warm|cold) {where}"""),
                timed=False,
                everywhere=False,
                weight=0.8,
            ),
        },
        LIVED_IN,
        weight=2.6,
        english_all="all radiators",
    ),
    Device(
        "blinds",
        ("blinds", "blinds", "shutters", "shades", "roller blinds"),
        ("die Rollos", "die Rollos", "alle Rollos"),
        covers(
            "roll up {n}",
            "roll down {n}",
            "let (some|the) (light|sun|sunshine|daylight) into the {place}",
            "the sun is (shining|blazing|glaring) into the {place}\nthe neighbours can (see|look) into the {place}",
        ),
        LIVED_IN,
        plural=True,
        weight=1.6,
        english_all="all blinds",
    ),
    Device(
        "fan",
        ("fan", "fan", "ceiling fan"),
        ("der Ventilator", "den Ventilator", "alle Ventilatoren"),
        {
            "on": on("@get some air moving {where}"),
            "off": off(),
            "set": Action(
                "{n} {is} set to {v}",
                "set {n} to {v}",
                "{n} {ist} auf {v} gestellt",
                "stelle {a}{when} auf {v}",
                asks("""@set {n} to {v}
@put {n} on {v}
@turn {n} (up|down|) to {v}
@run {n} (on|at) {v} (speed|)
{n} (on|to) {v}"""),
                kind="speed",
            ),
        },
        LIVED_IN,
        weight=0.9,
        english_all="all fans",
    ),
)
