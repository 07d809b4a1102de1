"""Orders and questions with their corrections: "set a timer for ten minutes", "no i mean five".

The answer to a correction is that of the corrected order. It depends on the order, so a correction
alone has no answer.
"""

import collections
import random
from collections.abc import Iterator
from typing import NamedTuple

from datamodules.synthetic.grammar import (
    COUNTRIES,
    DEVICES,
    ITEMS,
    KINDS,
    MAX_WORDS,
    MUSIC,
    ROOMS,
    Core,
    QAPair,
    Split,
    framed,
    split_of_text,
)

KIND = "correction"
"""Value of `QAPair.kind`, and the kind of their turns in dialogues."""
LEADS = [
    "no i mean",
    "no i meant",
    "i mean",
    "i meant",
    "no",
    "sorry",
    "sorry i mean",
    "no sorry",
    "actually",
    "make that",
    "no make that",
    "wait i mean",
    "no wait",
    "not that",
    "i said",
    "no i said",
]
TAILS = ["", "please", "instead", "not that"]


class Alternative(NamedTuple):
    """What the user can say to correct an order, and the answer to the corrected order."""

    said: str
    answer: str


def _timers() -> Iterator[list[Alternative]]:
    """All timers, then all alarms: each duration can be corrected to another one."""
    for beginning in ("timer set for ", "alarm set in "):
        # From the answers of the grammar, so that both always agree.
        answers = {core.answer for core in KINDS["timer"] if core.answer.startswith(beginning)}
        yield [Alternative(answer.removeprefix(beginning), answer) for answer in sorted(answers)]


def _switches() -> Iterator[list[Alternative]]:
    """Answers that differ in a single place: the device, the room, or the state."""

    def answer(device: list[str], room: str, state: str) -> str:
        name, verb = device
        return f"the {room} {name} {verb} {state}"

    for state in ("on", "off"):
        for device in DEVICES:
            yield [Alternative(f"the {room}", answer(device, room, state)) for room in ROOMS]
        for room in ROOMS:
            yield [
                Alternative(f"the {device[0]}", answer(device, room, state)) for device in DEVICES
            ]
    for device in DEVICES:
        for room in ROOMS:
            yield [
                Alternative(f"turn it {state}", answer(device, room, state))
                for state in ("on", "off")
            ]


def _families() -> Iterator[list[Alternative]]:
    """Sets of alternatives to each other."""
    yield from _timers()
    yield from _switches()
    yield [Alternative(item, f"{item} added to your shopping list") for item in ITEMS]
    yield [Alternative(music, f"playing {music} music") for music in MUSIC]
    yield [Alternative(country, capital) for country, capital in COUNTRIES]


def _by_answer() -> dict[str, list[list[Alternative]]]:
    """Answer to an order -> the sets that contain it."""
    found: dict[str, list[list[Alternative]]] = collections.defaultdict(list)
    for family in _families():
        for alternative in family:
            found[alternative.answer].append(family)
    return dict(found)


_FAMILIES_OF = _by_answer()
_KINDS_OF_ORDERS = ("timer", "devices", "shopping", "music", "capitals")
ORDERS: dict[str, list[Core]] = {
    kind: [core for core in KINDS[kind] if core.answer in _FAMILIES_OF] for kind in _KINDS_OF_ORDERS
}
"""Kind -> the cores that can be corrected."""


def draw_order(rng: random.Random, split: Split) -> QAPair:
    """Draw an order or question of one split that can be corrected."""
    while True:
        # The kind first, since most of the orders are timers.
        kind = rng.choice(_KINDS_OF_ORDERS)
        order = framed(rng, rng.choice(ORDERS[kind]), kind)
        is_short = len(order.text.split()) <= MAX_WORDS
        if is_short and split_of_text(order.text) == split:
            return order


def draw(rng: random.Random, split: Split, answer: str) -> QAPair:
    """Draw a correction of one split.

    Args:
        rng: source of every random decision.
        split: selects the sentences.
        answer: answer to the order that is corrected, from `draw_order`.

    Returns:
        The correction, with the answer to the corrected order.
    """
    while True:
        family = rng.choice(_FAMILIES_OF[answer])
        alternative = rng.choice(family)
        text = f"{rng.choice(LEADS)} {alternative.said} {rng.choice(TAILS)}".strip()
        # A correction to what has been said already is none.
        if alternative.answer != answer and split_of_text(text) == split:
            return QAPair(text, alternative.answer, KIND)


def draw_alone(rng: random.Random, split: Split) -> QAPair:
    """Draw a correction without its order, thus without an answer."""
    # The order only provides something that can be corrected; it is not part of the result.
    order = draw_order(rng, split)
    text, _, kind = draw(rng, split, order.answer)
    return QAPair(text, "", kind)


def sentences() -> Iterator[str]:
    """Iterate over every correction of all splits."""
    said = {alternative.said for family in _families() for alternative in family}
    for words in sorted(said):
        for lead in LEADS:
            for tail in TAILS:
                yield f"{lead} {words} {tail}".strip()
