"""Text of the default corpus: short questions and orders, each with exactly one correct answer.

A sentence is a core ("seven plus five") in a frame ("can you tell me ... please"). All cores and
frames are listed here, so the vocabulary is known exactly. Their combinations are so many that some
sentences can be held out of training.
"""

import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Split = Literal["train", "valid", "test"]
MAX_WORDS = 12
"""A sentence has at most so many words."""


class QAPair(NamedTuple):
    """A sentence to be spoken and the response to it: lower-case words of a to z and apostrophe."""

    text: str
    answer: str
    kind: str
    """Key of `KINDS`, or the name of another source of text."""


class Core(NamedTuple):
    """Content of a question or an order, without its frame."""

    form: str
    """Key of `FRAMES`: "thing" (a noun phrase), "question" or "order"."""
    text: str
    answer: str


def _list(names: str) -> list[str]:
    return names.split()


def _table(rows: str) -> list[list[str]]:
    """`a b, c_d e` -> [[a, b], [c d, e]]."""
    table = []
    for row in rows.split(","):
        cells = row.split()
        table.append([cell.replace("_", " ") for cell in cells])
    return table


def _frames(leads: str, tails: str) -> list[tuple[str, str]]:
    """All pairs of a lead and a tail, except those with "please" in both."""
    frames = []
    for lead, tail in itertools.product(leads.split("|"), tails.split("|")):
        # "please tell me ... please" is not English.
        if "please" in lead and tail == "please":
            continue
        frames.append((lead, tail))
    return frames


FRAMES = {
    "thing": _frames(
        "what is|what's|tell me|please tell me|can you tell me|could you tell me|do you know|"
        "i want to know|i would like to know|give me|please give me|so what is|okay what is|"
        "quick question what is",
        "|please|thank you|if you know",
    ),
    "question": _frames(
        "|so|okay|hey|well|tell me|please tell me|quick question|next question|"
        "one more question|excuse me|i have a question",
        "|please|thank you|if you know",
    ),
    "order": _frames(
        "|please|can you|could you|would you|will you|okay|hey|i want you to|"
        "i would like you to|go ahead and|now please",
        "|please|now|for me|right away|thank you",
    ),
}

ONES = _list(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
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
    "france paris, germany berlin, spain madrid, italy rome, austria vienna, greece athens, "
    "poland warsaw, norway oslo, ireland dublin, japan tokyo, china beijing, india delhi, "
    "egypt cairo, canada ottawa, cuba havana, peru lima"
)
OPPOSITES = _table(
    "hot cold, big small, old young, fast slow, happy sad, light dark, high low, open closed, "
    "full empty, wet dry, early late, rich poor, strong weak, hard soft, long short, "
    "left right, up down, in out, on off, day night"
)
COLOURS = _table(
    "the_sky blue, grass green, snow white, coal black, blood red, a_banana yellow, "
    "a_lemon yellow, a_carrot orange, milk white, chocolate brown, a_strawberry red, "
    "a_leaf green"
)
SOUNDS = _table(
    "a_cow moo, a_dog woof, a_cat meow, a_duck quack, a_sheep baa, a_horse neigh, a_pig oink, "
    "a_lion roar, a_snake hiss, a_bee buzz"
)
YOUNG = _table("dog puppy, cat kitten, cow calf, horse foal, sheep lamb, pig piglet")
LEGS = _table(
    "a_spider eight, a_dog four, a_cat four, a_horse four, a_cow four, an_ant six, a_bee six, "
    "a_bird two, a_duck two, a_snake zero, a_fish zero, a_beetle six, a_sheep four, "
    "a_chicken two, a_scorpion eight, a_person two"
)
SIDES = _table(
    "a_triangle three, a_square four, a_rectangle four, a_pentagon five, a_hexagon six, "
    "an_octagon eight"
)
JOBS = _table(
    "flies_a_plane a_pilot, teaches_children a_teacher, bakes_bread a_baker, "
    "puts_out_fires a_firefighter, cuts_hair a_barber, grows_crops a_farmer, "
    "catches_fish a_fisherman, treats_sick_people a_doctor, treats_sick_animals a_vet, "
    "repairs_teeth a_dentist"
)
PLURALS = _table(
    "mouse mice, child children, foot feet, tooth teeth, goose geese, man men, woman women, "
    "sheep sheep"
)
PASTS = _table("go went, see saw, eat ate, run ran, come came, take took, give gave, write wrote")
UNITS = _table(
    "seconds minute 60, minutes hour 60, hours day 24, days week 7, months year 12, "
    "years decade 10, centimetres metre 100, metres kilometre 1000, grams kilogram 1000, "
    "cents dollar 100"
)


def number(n: int) -> str:
    """Spell 0 to 9999 in words: 42 -> "forty two", 180 -> "one hundred eighty"."""
    if n < 20:
        return ONES[n]
    if n < 100:
        words, rest = TENS[n // 10 - 2], n % 10
    elif n < 1000:
        words, rest = f"{number(n // 100)} hundred", n % 100
    else:
        words, rest = f"{number(n // 1000)} thousand", n % 1000
    if rest:
        words = f"{words} {number(rest)}"
    return words


def _cores(form: str, text: str, answer: str, rows: Iterable) -> list[Core]:
    """One core per row, whose cells fill {0}, {1}, ... of text and answer; integers as words."""
    cores = []
    for row in rows:
        # Integers stay integers in the tables, so that rows can be computed.
        cells = [number(cell) if isinstance(cell, int) else cell for cell in row]
        cores.append(Core(form, text.format(*cells), answer.format(*cells)))
    return cores


def _successors(cycle: list[str]) -> list[tuple[str, str]]:
    """Pairs of each element and the one after it; the first one follows the last."""
    # Days and months are cyclic: sunday is followed by monday.
    rotated = cycle[1:] + cycle[:1]
    return list(zip(cycle, rotated, strict=True))


def _rotations(cycle: list[str]) -> list[tuple[str, str]]:
    """Pairs of each element and the text of the whole cycle that starts with it."""
    rotations = []
    for i, first in enumerate(cycle):
        rotated = cycle[i:] + cycle[:i]
        rotations.append((first, " ".join(rotated)))
    return rotations


def _counts() -> Iterator[tuple[int, int, list[str]]]:
    """Ranges of 2 to 12 numbers within 1 to 20: first, last, and all of them in words."""
    for first in range(1, 20):
        for last in range(first + 1, min(first + 12, 21)):
            yield first, last, [number(n) for n in range(first, last + 1)]


def _counts_up() -> list[tuple[int, int, str]]:
    return [(first, last, " ".join(words)) for first, last, words in _counts()]


def _counts_down() -> list[tuple[int, int, str]]:
    return [(last, first, " ".join(reversed(words))) for first, last, words in _counts()]


def _durations() -> Iterator[tuple[int, str]]:
    """1 to 60 seconds, minutes and hours."""
    for unit in ("second", "minute", "hour"):
        yield 1, unit
        for n in range(2, 61):
            yield n, f"{unit}s"


def _unit_multiples() -> Iterator[tuple[str, str, int, int]]:
    """Small unit, large unit, number of large units, and the same amount in small units."""
    for small, large, size in UNITS:
        for n in range(2, 10):
            yield small, large, n, n * int(size)


def _switches() -> Iterator[tuple[str, str, str, str]]:
    """Device, verb, room and new state."""
    for device, verb in DEVICES:
        for room in ROOMS:
            yield device, verb, room, "on"
            yield device, verb, room, "off"


def _single(words: Iterable) -> list[tuple]:
    """Rows with one cell."""
    return [(word,) for word in words]


# Pairs of 0 to 10, from which the tables of arithmetic and comparison are selected.
_OPERANDS = list(itertools.product(range(11), range(11)))
# Pairs that have a larger element, and differences that are not negative.
_RISING = [(a, b) for a, b in _OPERANDS if a < b]
_FALLING = [(a, b) for a, b in _OPERANDS if a >= b]
_FACTORS = [(a, b) for a, b in _OPERANDS if max(a, b) <= 5]
_SUMS = [(a, b, a + b) for a, b in _OPERANDS]
_DIFFERENCES = [(a, b, a - b) for a, b in _FALLING]
_PRODUCTS = [(a, b, a * b) for a, b in _FACTORS]
_DOUBLES = [(n, 2 * n) for n in range(1, 11)]
_NEIGHBOURS = [(n, n + 1) for n in range(30)]
_DURATIONS = list(_durations())
_SWITCHES = list(_switches())
_UNIT_SIZES = [(small, large, number(int(size))) for small, large, size in UNITS]
_SPELLINGS = [(word, " ".join(word)) for word in SPELT]

KINDS: dict[str, list[Core]] = {
    "plus": _cores("thing", "{0} plus {1}", "{2}", _SUMS),
    "minus": _cores("thing", "{0} minus {1}", "{2}", _DIFFERENCES),
    "times": _cores("thing", "{0} times {1}", "{2}", _PRODUCTS),
    "halves": _cores("thing", "twice {0}", "{1}", _DOUBLES)
    + _cores("thing", "half of {1}", "{0}", _DOUBLES),
    "neighbours": _cores("thing", "the number after {0}", "{1}", _NEIGHBOURS)
    + _cores("thing", "the number before {1}", "{0}", _NEIGHBOURS),
    "parity": _cores("question", "is {0} odd or even", "{0} is even", _single(range(0, 100, 2)))
    + _cores("question", "is {0} odd or even", "{0} is odd", _single(range(1, 100, 2))),
    "comparison": _cores("question", "which is larger {0} or {1}", "{1}", _RISING)
    + _cores("question", "which is larger {1} or {0}", "{1}", _RISING)
    + _cores("question", "which is smaller {0} or {1}", "{0}", _RISING)
    + _cores("question", "which is smaller {1} or {0}", "{0}", _RISING),
    "counting": _cores("order", "count from {0} to {1}", "{2}", _counts_up())
    + _cores("order", "count down from {0} to {1}", "{2}", _counts_down()),
    "timer": _cores("order", "set a timer for {0} {1}", "timer set for {0} {1}", _DURATIONS)
    + _cores("order", "wake me in {0} {1}", "alarm set in {0} {1}", _DURATIONS),
    "units": _cores("question", "how many {0} are in one {1}", "{2}", _UNIT_SIZES)
    + _cores(
        "question",
        "how many {0} are in {2} {1}s",
        "{3}",
        _unit_multiples(),
    ),
    "days": _cores("thing", "the day after {0}", "{1}", _successors(DAYS))
    + _cores("thing", "the day before {1}", "{0}", _successors(DAYS))
    + _cores("question", "which day comes after {0}", "{1}", _successors(DAYS))
    + _cores("question", "which day comes before {1}", "{0}", _successors(DAYS)),
    "months": _cores("thing", "the month after {0}", "{1}", _successors(MONTHS))
    + _cores("thing", "the month before {1}", "{0}", _successors(MONTHS))
    + _cores("question", "how many days are in {0}", "thirty one", _single(LONG_MONTHS))
    + _cores("question", "how many days are in {0}", "thirty", _single(SHORT_MONTHS)),
    "lists": _cores("order", "name the days from {0}", "{1}", _rotations(DAYS))
    + _cores("order", "name the months from {0}", "{1}", _rotations(MONTHS)),
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
    "spelling": _cores("order", "spell {0}", "{1}", _SPELLINGS)
    + _cores("question", "how do you spell {0}", "{1}", _SPELLINGS),
    "words": _cores("thing", "the plural of {0}", "{1}", PLURALS)
    + _cores("thing", "the past tense of {0}", "{1}", PASTS),
    "devices": _cores("order", "turn {3} the {0} in the {2}", "the {2} {0} {1} {3}", _SWITCHES)
    + _cores("order", "switch the {2} {0} {3}", "the {2} {0} {1} {3}", _SWITCHES),
    "shopping": _cores(
        "order",
        "add {0} to my shopping list",
        "{0} added to your shopping list",
        _single(ITEMS),
    ),
    "music": _cores("order", "play some {0} music", "playing {0} music", _single(MUSIC)),
}
"""Kind of question or order -> its cores."""


def _num_distinct_words(cores: list[Core]) -> int:
    return len({word for core in cores for word in core.text.split()})


_CORE_TEXTS = frozenset(core.text for core in itertools.chain.from_iterable(KINDS.values()))
_KIND_NAMES = list(KINDS)
# Accumulated once, since `rng.choices` would do so in every draw.
_CUMULATIVE_WEIGHTS = list(itertools.accumulate(map(_num_distinct_words, KINDS.values())))
"""A kind is drawn in proportion to its number of distinct words, so that no word is rare."""


def split_of_text(text: str) -> Split:
    """Assign a sentence to a split by a stable hash: 5 % to valid, 5 % to test."""
    # Python's own hash of a string differs from process to process.
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    percentile = int.from_bytes(digest, "big") % 100
    if percentile < 5:
        return "valid"
    if percentile < 10:
        return "test"
    return "train"


def draw(rng: random.Random, split: Split) -> QAPair:
    """Draw a sentence of one split.

    Every word of the valid and test sentences also occurs in train.
    """
    while True:
        [kind] = rng.choices(_KIND_NAMES, cum_weights=_CUMULATIVE_WEIGHTS)
        core = rng.choice(KINDS[kind])
        qa_pair = framed(rng, core, kind)
        # Rejection: the split is known only of a whole sentence.
        if _is_short(qa_pair.text) and split_of_text(qa_pair.text) == split:
            return qa_pair


def framed(rng: random.Random, core: Core, kind: str) -> QAPair:
    """Put a core into a random frame; the sentence may be longer than `MAX_WORDS`."""
    frame = rng.choice(FRAMES[core.form])
    return QAPair(_sentence(core, frame), core.answer, kind)


def contains_core(text: str) -> bool:
    """Return whether a text contains the whole content of a question or an order."""
    words = text.split()
    # A core may begin anywhere, since a frame such as "can you tell me" precedes it.
    for end in range(len(words) + 1):
        for start in range(end):
            if " ".join(words[start:end]) in _CORE_TEXTS:
                return True
    return False


def sentences() -> Iterator[QAPair]:
    """Iterate over every sentence of all splits."""
    for kind, cores in KINDS.items():
        for core in cores:
            for frame in FRAMES[core.form]:
                text = _sentence(core, frame)
                if _is_short(text):
                    yield QAPair(text, core.answer, kind)


def vocabulary() -> list[str]:
    """Sorted list of all words of sentences and answers."""
    words: set[str] = set()
    for lead, tail in itertools.chain.from_iterable(FRAMES.values()):
        words.update(lead.split(), tail.split())
    for core in itertools.chain.from_iterable(KINDS.values()):
        words.update(core.text.split(), core.answer.split())
    return sorted(words)


def _sentence(core: Core, frame: tuple[str, str]) -> str:
    lead, tail = frame
    return f"{lead} {core.text} {tail}".strip()


def _is_short(text: str) -> bool:
    return text.count(" ") < MAX_WORDS
