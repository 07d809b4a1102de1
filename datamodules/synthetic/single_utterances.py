"""Sentences of the single utterances of the default corpus.

Most come from the grammar. In training some are outside it, so that the model learns what it does
not know. Valid and test have sentences of the grammar alone, which keeps their scores comparable;
the others are scored in live sessions (`make eval-duplex`).
"""

import random
from collections.abc import Callable

from datamodules.synthetic import (
    corrections,
    grammar,
    isolated_words,
    out_of_grammar,
    small_talk,
)
from datamodules.synthetic.grammar import QAPair, Split

Draw = Callable[[random.Random, Split], QAPair]

SOURCES: dict[str, tuple[Draw, float]] = {
    out_of_grammar.KIND: (out_of_grammar.draw, 0.06),
    small_talk.KIND: (small_talk.draw, 0.04),
    corrections.KIND: (corrections.draw_alone, 0.02),
    isolated_words.KIND: (isolated_words.draw, 0.04),
}
"""Sources besides the grammar, with their shares of the training utterances."""


def draw(rng: random.Random, split: Split) -> QAPair:
    """Draw a sentence of one split."""
    if split != "train":
        return grammar.draw(rng, split)
    # One number decides between all sources: each covers an interval as long as its share.
    position = rng.random()
    for draw_other, share in SOURCES.values():
        if position < share:
            return draw_other(rng, split)
        position -= share
    return grammar.draw(rng, split)
