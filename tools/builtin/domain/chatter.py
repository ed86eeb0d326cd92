"""What isn't a command: greetings, thanks, questions about the model, and what it can't do."""

from __future__ import annotations

import random

from .grammar import expand, listed
from .requests import Request

# kind -> (English reply, German reply, what is said)
TALK: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "hello": (
        "Hello! What can I do for you?",
        "Hallo! Was kann ich für dich tun?",
        (
            "hello",
            "hi",
            "hey",
            "hello there",
            "hi there",
            "hey there",
            "good (afternoon|day|evening)",
            "hello home",
            "howdy",
            "greetings",
            "hi, how are you",
            "how are you (today|doing|)",
            "hello, is anyone there",
            "what's up",
        ),
    ),
    "thanks": (
        "You are welcome.",
        "Gern geschehen.",
        (
            "thanks",
            "thank you (so much|very much|)",
            "thanks (a lot|again|so much)",
            "great, (thanks|thank you)",
            "perfect, thank you",
            "well done",
            "good job",
            "cool, thanks",
            "that's (great|perfect|nice)",
            "awesome",
        ),
    ),
    "bye": (
        "Goodbye!",
        "Auf Wiedersehen!",
        (
            "bye",
            "goodbye",
            "bye bye",
            "see you (later|soon|tomorrow|)",
            "(take care|farewell)",
            "talk to you later",
            "that's all (for today|)",
        ),
    ),
    "who": (
        "I am the small model inside lora_edge. I look after the home.",
        "Ich bin das kleine Modell in lora_edge. Ich kümmere mich um das Haus.",
        (
            "who are you",
            "what are you",
            "what's your name",
            "what is your name",
            "(tell me|say something) about yourself",
            "are you (a robot|human|an AI|a person|alive)",
            "who am I talking to",
            "who made you",
            "introduce yourself",
        ),
    ),
    "help": (
        "I can switch lights, heating, blinds, music and more, lock doors, and set timers.",
        "Ich kann Licht, Heizung, Rollos, Musik und mehr schalten, Türen abschließen und Timer stellen.",
        (
            "help",
            "help me",
            "what can you do (for me|)",
            "what do you (do|know)",
            "how can you help (me|)",
            "what (commands|things) do you (know|understand)",
            "what can I (say|ask|ask you)",
            "how does this work",
            "I need help",
            "show me what you can do",
            "how do I use (this|you)",
        ),
    ),
    "other": (
        "Sorry, I can only help with the home.",
        "Das kann ich leider nicht. Ich kümmere mich nur um das Haus.",
        (),
    ),
}

_TOPICS = (
    "the capital of {place}",
    "the population of {place}",
    "the (history|flag|president|language) of {place}",
    "the (weather|news|time|traffic) in {place}",
    "the meaning of {noun}",
    "the best {noun}",
    "the price of {noun}",
    "the (size|age|color|weight|origin) of {noun}",
    "the square root of {number}",
    "{number} (plus|times|minus) {number}",
    "the score of the {noun} game",
    "the (first|last|biggest|fastest) {noun}",
    "quantum physics",
    "the theory of {noun}",
    "the distance from {place} to {place}",
)
_OTHER = (
    "what is {topic}",
    "what's {topic}",
    "(tell|teach) me (something|more|) about {topic}",
    "explain {topic}",
    "who (invented|discovered|wrote|painted) {noun}",
    "when was {noun} (invented|discovered|built)",
    "where (is|can I find) {place}",
    "how (far|big|old) is {place}",
    "how do I (cook|repair|draw|sell|grow) {noun}",
    "write (me|) (a|an|) (poem|story|song|letter|essay|email) about {noun}",
    "tell me a (joke|story|secret|riddle)",
    "translate {noun} (into|to) (French|Spanish|Italian|Latin)",
    "book (me|) a (flight|hotel|table|taxi) (to|in) {place}",
    "order (me|) (a|some|) {noun}",
    "buy {noun} (online|for me)",
    "what should I (wear|eat|read|cook) (today|tonight|)",
    "do you (like|know|love) {noun}",
    "I (love|like|hate) {noun}",
    "who won the {noun} (cup|match|race)",
    "how many {noun} are there in {place}",
    "call {place}",
    "send (a message|an email) to {place}",
    "why (is|are) {noun} (so|) (blue|big|expensive|loud|old)",
    "sing (me|) a song about {noun}",
    "drive me to {place}",
    "can you (dance|swim|count to {number}|fly|write code|play chess)",
    "how much (is|are) {noun}",
    "my {noun} is broken",
    "is {place} (nice|far|in {place})",
    "I want to (go|travel|move) to {place}",
    "{noun}",
    "{noun} and {noun}",
    "what do you think (of|about) {noun}",
    "the {noun} is (nice|funny|blue|strange)",
    "{number} times {number}",
    "once upon a time there was a {noun}",
    "do {noun} have {noun}",
    "which {noun} is the best",
    "I am {noun}",
    "my name is {name}",
    "where is my {noun}",
    "(spell|define) {noun}",
    "who is {name}",
    "how old is {name}",
    "call {name}",
    "what did {name} say",
    "when is {name}'s birthday",
    "solve {number} divided by {number}",
)
_PLACES = listed("""
France Germany Spain Italy Japan China India Brazil Egypt Kenya Norway Canada Mexico Peru Chile Berlin
Paris  London Rome Madrid Tokyo Cairo Lima Boston Chicago Dublin Vienna Oslo Moscow Sydney Africa Asia
Europe  Australia Texas Florida Greece Turkey Poland Sweden Finland Pluto Mars Jupiter Hawaii
""")
_NOUNS = listed("""
pizza football cars dinosaurs elephants bicycles guitars mountains rivers love politics shoes poetry
rockets  tigers whales spiders history physics chess tennis shares bitcoin bridges computers phones
planes trains  castles pirates dragons horses stars gravity electricity pancakes sushi cheesecake dresses
jackets laptop bike  book basketball hockey actors painting telescope volcano ocean penguins robots money
taxes insurance  math chemistry biology music-theory grammar spelling vikings romans knights kings queens
ghosts aliens soccer  golf swimming hiking gold silver diamonds oil atoms cells viruses medicine cancer
headaches religion art  sculpture opera ballet theater novels newspapers birds bees frogs snakes sharks
monkeys lions bears wolves  sheep cows pigs ducks trees roses forests deserts islands earthquakes storms
snow rain
""")
NAMES = listed("""
Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olivia Paul Rosa Sam Tom Zoe
""")


def talk(rng: random.Random) -> tuple[Request, str]:
    """Something that isn't a command, and its kind (a key of TALK)."""
    kind = rng.choices(list(TALK), (1.0, 0.8, 0.5, 0.6, 0.7, 3.5))[0]
    if kind != "other":
        text = expand(rng.choice(TALK[kind][2]), rng)
        return Request(text, (), f"{kind}|{text}"), kind
    template = rng.choice(_OTHER)
    topic = rng.choice(_TOPICS)

    def fill(text: str) -> str:
        text = expand(text, rng)
        for slot, words in (("{place}", _PLACES), ("{noun}", _NOUNS), ("{name}", NAMES)):
            while slot in text:
                text = text.replace(slot, rng.choice(words), 1)
        while "{number}" in text:
            text = text.replace("{number}", str(rng.randint(2, 99)), 1)
        return text

    text = fill(template.replace("{topic}", topic))
    return Request(text, (), f"{template}|{text}"), kind
