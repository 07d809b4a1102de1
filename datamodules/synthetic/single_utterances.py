"""Sentences of the single utterances of the default corpus.

Valid and test have sentences of the grammar alone, which keeps their scores comparable. In training
`data.utterance_shares` adds sentences beside it, so that the model learns what it does not know;
those are scored in live sessions (`make eval-duplex`).
"""

import random
from collections.abc import Callable

from configs.schema import UtteranceSharesConfig
from datamodules.synthetic import (
    corrections,
    grammar,
    isolated_words,
    out_of_grammar,
    small_talk,
)
from datamodules.synthetic.grammar import QAPair, Split

Draw = Callable[[random.Random, Split], QAPair]

SOURCES: dict[str, Draw] = {
    "out_of_grammar": out_of_grammar.draw,
    "small_talk": small_talk.draw,
    "corrections": corrections.draw_alone,
    "isolated_words": isolated_words.draw,
}
"""Field of `data.utterance_shares` -> source of its sentences."""


def draw(rng: random.Random, split: Split, shares: UtteranceSharesConfig) -> QAPair:
    """Draw a sentence of one split.

    Args:
        rng: source of every random decision.
        split: of the sentence; the shares hold for train alone.
        shares: of the sources beside the grammar.
    """
    source_shares = {name: getattr(shares, name) for name in SOURCES}
    # No draw where there is nothing to choose: the order of draws defines a corpus.
    if split != "train" or not any(source_shares.values()):
        return grammar.draw(rng, split)
    # One number decides between all sources: each covers an interval as long as its share.
    position = rng.random()
    for name, share in source_shares.items():
        if position < share:
            return SOURCES[name](rng, split)
        position -= share
    return grammar.draw(rng, split)
