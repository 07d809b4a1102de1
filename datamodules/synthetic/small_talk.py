"""Greetings, thanks, goodbyes, and commands to stop, with their short answers.

A command to stop interrupts the response in progress like any question, and the acknowledgement
replaces it. It is acknowledged in the same way while there is no response, so that its answer
depends on its words alone.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from datamodules.synthetic.grammar import QAPair, Split, split_of_text

KIND = "small_talk"
"""Value of `QAPair.kind`, and the kind of their turns in dialogues."""
STOPPED = "okay"
"""Acknowledgement of a command to stop."""
SHORT_WORDS = 2
"""Sentences of at most so many words occur in all splits: there are few, and people say them most
often."""


class Talk(NamedTuple):
    """Sentences with one answer: each is a lead, one of the phrases, and a tail."""

    leads: list[str]
    phrases: list[str]
    tails: list[str]
    answer: str


def _talk(leads: str, phrases: str, tails: str, answer: str) -> Talk:
    return Talk(leads.split("|"), phrases.split("|"), tails.split("|"), answer)


STOP = _talk(
    "|okay|please|hey|alright|no|okay please|right",
    "stop|cancel|never mind|wait|be quiet|quiet|stop it|stop talking|that is enough|enough|"
    "forget it|cancel that|wait a moment|hold on|shut up|stop that|pause|don't say any more|"
    "you can stop|no more",
    "|please|now|thank you|right now",
    STOPPED,
)
OTHERS = [
    _talk(
        "|well|oh|okay",
        "hello|hi|hi there|hello there|hey there|good morning|good afternoon|good evening|"
        "hello again",
        "|computer|everybody|my friend|how nice to hear you",
        "hello",
    ),
    _talk(
        "|okay|great|good|perfect|alright",
        "thank you|thanks|thanks a lot|thank you very much|thank you so much|many thanks|"
        "thanks again|i thank you",
        "|for that|for your help|that was helpful|computer",
        "you are welcome",
    ),
    _talk(
        "|okay|well|alright|thanks",
        "bye|goodbye|bye bye|good night|bye for now|that is all goodbye|have a nice day",
        "|computer|my friend|until tomorrow|i have to go",
        "goodbye",
    ),
]
_ALL = [STOP, *OTHERS]


def draw(rng: random.Random, split: Split) -> QAPair:
    """Draw a sentence of any sort; see `SHORT_WORDS` about the splits."""
    return _draw(rng, split, _ALL)


def draw_stop(rng: random.Random, split: Split) -> QAPair:
    """Draw a command to stop."""
    return _draw(rng, split, [STOP])


def sentences() -> Iterator[QAPair]:
    """Iterate over every sentence of all splits."""
    for talk in _ALL:
        for parts in itertools.product(talk.leads, talk.phrases, talk.tails):
            yield QAPair(_join(parts), talk.answer, KIND)


def _draw(rng: random.Random, split: Split, talks: Sequence[Talk]) -> QAPair:
    while True:
        # Equally often each answer, however many sentences have it.
        talk = rng.choice(talks)
        parts = [rng.choice(options) for options in (talk.leads, talk.phrases, talk.tails)]
        text = _join(parts)
        if len(text.split()) <= SHORT_WORDS or split_of_text(text) == split:
            return QAPair(text, talk.answer, KIND)


def _join(parts: Sequence[str]) -> str:
    """Join parts of which some are empty."""
    return " ".join(" ".join(parts).split())
