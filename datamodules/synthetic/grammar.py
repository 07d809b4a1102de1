"""The default corpus as text: short questions and orders, each with its one right answer.

A sentence is a core ("seven plus five") in a frame ("can you tell me ... please"). Every core and frame is listed, so
the vocabulary is known exactly; together they are so many that some sentences can be kept out of training.
"""

import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Split = Literal["train", "valid", "test"]
MAX_WORDS = 12


class QAPair(NamedTuple):
    """A sentence to be spoken and the reply to it: lower-case words of a to z and apostrophe."""

    text: str
    answer: str
    kind: str


class Core(NamedTuple):
    """What is asked, without its frame."""

    form: str
    """The frames that fit: those of a thing (a noun phrase), a question or an order."""
    text: str
    answer: str


def _list(names: str) -> list[str]:
    return names.split()


def _table(rows: str) -> list[list[str]]:
    """`a b, c_d e` -> [[a, b], [c d, e]]."""
    return [[cell.replace("_", " ") for cell in row.split()] for row in rows.split(",")]


def _frames(leads: str, tails: str) -> list[tuple[str, str]]:
    """Every lead with every tail; nobody says please twice."""
    pairs = itertools.product(leads.split("|"), tails.split("|"))
    return [(lead, tail) for lead, tail in pairs if not ("please" in lead and tail == "please")]


FRAMES = {
    "thing": _frames(
        "what is|what's|tell me|please tell me|can you tell me|could you tell me|do you know|i want to know|"
        "i would like to know|give me|please give me|so what is|okay what is|quick question what is",
        "|please|thank you|if you know",
    ),
    "question": _frames(
        "|so|okay|hey|well|tell me|please tell me|quick question|next question|one more question|excuse me|"
        "i have a question",
        "|please|thank you|if you know",
    ),
    "order": _frames(
        "|please|can you|could you|would you|will you|okay|hey|i want you to|i would like you to|go ahead and|"
        "now please",
        "|please|now|for me|right away|thank you",
    ),
}

ONES = _list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = _list("twenty thirty forty fifty sixty seventy eighty ninety")
DAYS = _list("monday tuesday wednesday thursday friday saturday sunday")
MONTHS = _list(
    "january february march april may june july august september october november december"
)
LONG_MONTHS = _list("january march may july august october december")
SHORT_MONTHS = _list("april june september november")
SPELT = _list("cat dog fish bird tree book ball milk cake soup cup hat bus sun moon star rain snow")
ITEMS = _list("milk bread butter cheese eggs apples bananas rice pasta coffee")
MUSIC = _list("jazz rock pop blues folk opera country classical")
ROOMS = _list("kitchen bedroom bathroom garage office hall attic cellar")
DEVICES = _table("lights are, lamp is, heating is, fan is, television is, radio is")
COUNTRIES = _table(
    "france paris, germany berlin, spain madrid, italy rome, austria vienna, greece athens, poland warsaw, "
    "norway oslo, ireland dublin, japan tokyo, china beijing, india delhi, egypt cairo, canada ottawa, cuba havana, "
    "peru lima"
)
OPPOSITES = _table(
    "hot cold, big small, old young, fast slow, happy sad, light dark, high low, open closed, full empty, wet dry, "
    "early late, rich poor, strong weak, hard soft, long short, left right, up down, in out, on off, day night"
)
COLOURS = _table(
    "the_sky blue, grass green, snow white, coal black, blood red, a_banana yellow, a_lemon yellow, a_carrot orange, "
    "milk white, chocolate brown, a_strawberry red, a_leaf green"
)
SOUNDS = _table(
    "a_cow moo, a_dog woof, a_cat meow, a_duck quack, a_sheep baa, a_horse neigh, a_pig oink, a_lion roar, "
    "a_snake hiss, a_bee buzz"
)
YOUNG = _table("dog puppy, cat kitten, cow calf, horse foal, sheep lamb, pig piglet")
LEGS = _table(
    "a_spider eight, a_dog four, a_cat four, a_horse four, a_cow four, an_ant six, a_bee six, a_bird two, a_duck two, "
    "a_snake zero, a_fish zero, a_beetle six, a_sheep four, a_chicken two, a_scorpion eight, a_person two"
)
SIDES = _table(
    "a_triangle three, a_square four, a_rectangle four, a_pentagon five, a_hexagon six, an_octagon eight"
)
JOBS = _table(
    "flies_a_plane a_pilot, teaches_children a_teacher, bakes_bread a_baker, puts_out_fires a_firefighter, "
    "cuts_hair a_barber, grows_crops a_farmer, catches_fish a_fisherman, treats_sick_people a_doctor, "
    "treats_sick_animals a_vet, repairs_teeth a_dentist"
)
PLURALS = _table(
    "mouse mice, child children, foot feet, tooth teeth, goose geese, man men, woman women, sheep sheep"
)
PASTS = _table("go went, see saw, eat ate, run ran, come came, take took, give gave, write wrote")
UNITS = _table(
    "seconds minute 60, minutes hour 60, hours day 24, days week 7, months year 12, years decade 10, "
    "centimetres metre 100, metres kilometre 1000, grams kilogram 1000, cents dollar 100"
)


def number(n: int) -> str:
    """0 to 9999 in words: 42 -> "forty two", 180 -> "one hundred eighty"."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f" {ONES[n % 10]}" if n % 10 else "")
    size, name = (1000, "thousand") if n >= 1000 else (100, "hundred")
    return f"{number(n // size)} {name}" + (f" {number(n % size)}" if n % size else "")


def _cores(form: str, text: str, answer: str, rows: Iterable) -> list[Core]:
    """One core a row: its cells fill {0}, {1}, ... of text and answer; integers become words."""
    spelt = [[number(cell) if isinstance(cell, int) else cell for cell in row] for row in rows]
    return [Core(form, text.format(*row), answer.format(*row)) for row in spelt]


def _next_in(cycle: list[str]) -> list[tuple[str, str]]:
    return list(zip(cycle, cycle[1:] + cycle[:1], strict=True))


def _round(cycle: list[str]) -> list[tuple[str, str]]:
    """Each with all of them, itself first."""
    return [(first, " ".join(cycle[i:] + cycle[:i])) for i, first in enumerate(cycle)]


_TWO = [(a, b) for a in range(11) for b in range(11)]
_RISING = [(a, b) for a, b in _TWO if a < b]
_COUNTS = [
    (a, b, [number(n) for n in range(a, b + 1)])
    for a in range(1, 20)
    for b in range(a + 1, min(a + 12, 21))
]
_UPWARDS = [(a, b, " ".join(between)) for a, b, between in _COUNTS]
_DOWNWARDS = [(b, a, " ".join(reversed(between))) for a, b, between in _COUNTS]
_SPANS = [
    (n, f"{unit}s" if n > 1 else unit)
    for unit in ("second", "minute", "hour")
    for n in range(1, 61)
]
_SWITCHES = [
    (device, verb, room, to) for device, verb in DEVICES for room in ROOMS for to in ("on", "off")
]

KINDS: dict[str, list[Core]] = {
    "plus": _cores("thing", "{0} plus {1}", "{2}", [(a, b, a + b) for a, b in _TWO]),
    "minus": _cores("thing", "{0} minus {1}", "{2}", [(a, b, a - b) for a, b in _TWO if a >= b]),
    "times": _cores(
        "thing", "{0} times {1}", "{2}", [(a, b, a * b) for a, b in _TWO if max(a, b) <= 5]
    ),
    "halves": _cores("thing", "twice {0}", "{1}", [(n, 2 * n) for n in range(1, 11)])
    + _cores("thing", "half of {1}", "{0}", [(n, 2 * n) for n in range(1, 11)]),
    "neighbours": _cores("thing", "the number after {0}", "{1}", [(n, n + 1) for n in range(30)])
    + _cores("thing", "the number before {1}", "{0}", [(n, n + 1) for n in range(30)]),
    "parity": _cores(
        "question", "is {0} odd or even", "{0} is even", [(n,) for n in range(0, 100, 2)]
    )
    + _cores("question", "is {0} odd or even", "{0} is odd", [(n,) for n in range(1, 100, 2)]),
    "comparison": _cores("question", "which is larger {0} or {1}", "{1}", _RISING)
    + _cores("question", "which is larger {1} or {0}", "{1}", _RISING)
    + _cores("question", "which is smaller {0} or {1}", "{0}", _RISING)
    + _cores("question", "which is smaller {1} or {0}", "{0}", _RISING),
    "counting": _cores("order", "count from {0} to {1}", "{2}", _UPWARDS)
    + _cores("order", "count down from {0} to {1}", "{2}", _DOWNWARDS),
    "timer": _cores("order", "set a timer for {0} {1}", "timer set for {0} {1}", _SPANS)
    + _cores("order", "wake me in {0} {1}", "alarm set in {0} {1}", _SPANS),
    "units": _cores(
        "question", "how many {0} are in one {1}", "{2}", [(*u, number(int(n))) for *u, n in UNITS]
    )
    + _cores(
        "question",
        "how many {0} are in {2} {1}s",
        "{3}",
        [(*u, k, k * int(n)) for *u, n in UNITS for k in range(2, 10)],
    ),
    "days": _cores("thing", "the day after {0}", "{1}", _next_in(DAYS))
    + _cores("thing", "the day before {1}", "{0}", _next_in(DAYS))
    + _cores("question", "which day comes after {0}", "{1}", _next_in(DAYS))
    + _cores("question", "which day comes before {1}", "{0}", _next_in(DAYS)),
    "months": _cores("thing", "the month after {0}", "{1}", _next_in(MONTHS))
    + _cores("thing", "the month before {1}", "{0}", _next_in(MONTHS))
    + _cores(
        "question", "how many days are in {0}", "thirty one", [(month,) for month in LONG_MONTHS]
    )
    + _cores(
        "question", "how many days are in {0}", "thirty", [(month,) for month in SHORT_MONTHS]
    ),
    "lists": _cores("order", "name the days from {0}", "{1}", _round(DAYS))
    + _cores("order", "name the months from {0}", "{1}", _round(MONTHS)),
    "capitals": _cores("thing", "the capital of {0}", "{1}", COUNTRIES)
    + _cores("question", "{1} is the capital of which country", "{0}", COUNTRIES),
    "opposites": _cores("thing", "the opposite of {0}", "{1}", OPPOSITES)
    + _cores("thing", "the opposite of {1}", "{0}", OPPOSITES),
    "colours": _cores("question", "what colour is {0}", "{1}", COLOURS),
    "animals": _cores("question", "what does {0} say", "{0} says {1}", SOUNDS)
    + _cores("question", "what is a young {0} called", "a {1}", YOUNG)
    + _cores("question", "how many legs does {0} have", "{1}", LEGS),
    "shapes": _cores("question", "how many sides does {0} have", "{1}", SIDES),
    "jobs": _cores("question", "who {0}", "{1}", JOBS),
    "spelling": _cores("order", "spell {0}", "{1}", [(word, " ".join(word)) for word in SPELT])
    + _cores("question", "how do you spell {0}", "{1}", [(word, " ".join(word)) for word in SPELT]),
    "words": _cores("thing", "the plural of {0}", "{1}", PLURALS)
    + _cores("thing", "the past tense of {0}", "{1}", PASTS),
    "devices": _cores("order", "turn {3} the {0} in the {2}", "the {2} {0} {1} {3}", _SWITCHES)
    + _cores("order", "switch the {2} {0} {3}", "the {2} {0} {1} {3}", _SWITCHES),
    "shopping": _cores(
        "order",
        "add {0} to my shopping list",
        "{0} added to your shopping list",
        [(i,) for i in ITEMS],
    ),
    "music": _cores(
        "order", "play some {0} music", "playing {0} music", [(music,) for music in MUSIC]
    ),
}
_NAMES = list(KINDS)
_WEIGHTS = list(
    itertools.accumulate(
        len({w for c in cores for w in c.text.split()}) for cores in KINDS.values()
    )
)
"""Running sums: a kind is drawn as often as it has words, so that no word is rare."""


def split_of_text(text: str) -> Split:
    """Where a sentence belongs: 5 % to valid, 5 % to test, by a hash that never changes."""
    place = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % 100
    return "valid" if place < 5 else "test" if place < 10 else "train"


def draw(rng: random.Random, split: Split) -> QAPair:
    """A sentence of this split. Every word of every split occurs in train."""
    while True:
        [kind] = rng.choices(_NAMES, cum_weights=_WEIGHTS)
        core = rng.choice(KINDS[kind])
        text = _framed(core, rng.choice(FRAMES[core.form]))
        if text.count(" ") < MAX_WORDS and split_of_text(text) == split:
            return QAPair(text, core.answer, kind)


def sentences() -> Iterator[QAPair]:
    """Every sentence that can be drawn, of all splits."""
    for kind, cores in KINDS.items():
        for core in cores:
            for frame in FRAMES[core.form]:
                text = _framed(core, frame)
                if text.count(" ") < MAX_WORDS:
                    yield QAPair(text, core.answer, kind)


def vocabulary() -> list[str]:
    """Every word that is said or answered, sorted."""
    frames = [part for frames in FRAMES.values() for frame in frames for part in frame]
    cores = [
        part for cores in KINDS.values() for core in cores for part in (core.text, core.answer)
    ]
    return sorted({word for text in frames + cores for word in text.split()})


def _framed(core: Core, frame: tuple[str, str]) -> str:
    lead, tail = frame
    return f"{lead} {core.text} {tail}".strip()
