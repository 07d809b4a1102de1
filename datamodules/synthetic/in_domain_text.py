"""What recorded speech says, for synthetic voices to say: its sentences, and new ones in its manner.

Few sentences, said often, are soon known by heart, and what is known by heart is no longer listened to. Where no answer
depends on the words, new ones are therefore made by going from word to word as the recorded ones do (a Markov chain).
"""

import collections
import random
from collections.abc import Iterable

from datamodules.mixture import Mixture
from datamodules.synthetic.grammar import QAPair

TEXTS = 20_000
"""Draws of the mixture from which the chain is made."""
MEMORY = 2
"""Words that decide about the next one."""
MAX_WORDS = 40
"""A new sentence ends here."""

_Words = tuple[str, ...]


class InDomainText:
    """QAPairs without end.

    Args:
        recorded: what is retold, in its shares.
    """

    def __init__(self, recorded: Mixture):
        self.recorded = recorded
        exchanges = map(self._recorded, range(min(TEXTS, 2 * len(recorded))))
        self._next = _chain(text for text, answer in exchanges if not answer)

    def qa_pair(self, rng: random.Random, draw: int) -> QAPair:
        """Draw `draw` of the mixture where it has an answer, else a new sentence."""
        text, answer = self._recorded(draw)
        return QAPair(text if answer or not self._next else self._sentence(rng), answer, "retold")

    def _recorded(self, draw: int) -> tuple[str, str]:
        corpus, place = self.recorded.locate(draw)
        return corpus.qa_pair(place)

    def _sentence(self, rng: random.Random) -> str:
        words: list[str] = []
        while (word := rng.choice(self._next[tuple(words[-MEMORY:])])) is not None and len(
            words
        ) < MAX_WORDS:
            words.append(word)
        return " ".join(words)


def _chain(texts: Iterable[str]) -> dict[_Words, list[str | None]]:
    """The last words -> all that ever came next; None: the end."""
    following: dict[_Words, list[str | None]] = collections.defaultdict(list)
    for text in texts:
        words = text.split()
        for place, word in enumerate([*words, None]):
            following[tuple(words[max(0, place - MEMORY) : place])].append(word)
    return following
