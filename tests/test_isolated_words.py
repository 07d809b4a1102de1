"""Single words and short sequences of them, to be transcribed."""

import random

from datamodules.synthetic import grammar, isolated_words
from datamodules.synthetic.grammar import split_of_text


def test_sequences_hold_words_of_the_grammar_and_longer_ones_are_held_out() -> None:
    rng = random.Random(1)
    known = set(grammar.vocabulary())
    lengths = set()
    for split in ("train", "test"):
        for _ in range(200):
            text, answer, kind = isolated_words.draw(rng, split)
            words = text.split()
            lengths.add(len(words))
            assert not answer and kind == isolated_words.KIND and known.issuperset(words)
            assert len(words) == 1 or split_of_text(text) == split
    assert lengths == {1, 2, 3}
