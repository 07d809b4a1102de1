"""Single words of the grammar and short sequences of them, to be transcribed.

People dictate numbers and name things. A model that only ever meets whole sentences takes a single
word for a part of one.
"""

import functools
import random

from datamodules.synthetic import grammar
from datamodules.synthetic.grammar import QAPair, Split, split_of_text

KIND = "isolated_words"
"""Value of `QAPair.kind`."""
MAX_WORDS = 3
"""Longest sequence; one word is as likely as all longer ones together."""


@functools.cache
def _vocabulary() -> tuple[str, ...]:
    return tuple(grammar.vocabulary())


def draw(rng: random.Random, split: Split) -> QAPair:
    """Draw words without an answer.

    Single words occur in every split; longer sequences are held out by the hash of their text.
    """
    while True:
        num_words = 1
        if rng.random() < 0.5:
            num_words = rng.randint(2, MAX_WORDS)
        text = " ".join(rng.choice(_vocabulary()) for _ in range(num_words))
        if num_words == 1 or split_of_text(text) == split:
            return QAPair(text, "", KIND)
