"""In-domain text for synthetic voices: sentences of the recorded corpus, and new ones like them.

A small set of sentences that is repeated often is soon memorised, and the model stops using the
audio. Where no answer depends on the exact words, new sentences are therefore generated from the
recorded ones with a Markov chain over words.
"""

import collections
import random
from collections.abc import Iterable

from datamodules.mixture import Mixture
from datamodules.synthetic.grammar import QAPair

MAX_CHAIN_TEXTS = 20_000
"""At most so many draws of the mixture are used to build the chain."""
ORDER = 2
"""Order of the chain: the number of preceding words that the next word depends on."""
MAX_WORDS = 40
"""A generated sentence has at most so many words."""

_Context = tuple[str, ...]


class InDomainText:
    """Unlimited QAPairs in the manner of a recorded corpus.

    Args:
        recorded: mixture of corpora whose transcripts are used, in its shares.
    """

    def __init__(self, recorded: Mixture):
        self.recorded = recorded
        num_draws = min(MAX_CHAIN_TEXTS, 2 * len(recorded))
        unanswered = []
        for draw in range(num_draws):
            text, answer = self._recorded_pair(draw)
            if not answer:
                unanswered.append(text)
        self._next_words = _build_chain(unanswered)

    def qa_pair(self, rng: random.Random, draw: int) -> QAPair:
        """Return draw `draw` of the mixture if it has an answer, else a generated sentence."""
        text, answer = self._recorded_pair(draw)
        if not answer and self._next_words:
            text = self._generate(rng)
        return QAPair(text, answer, "in_domain_text")

    def _recorded_pair(self, draw: int) -> tuple[str, str]:
        corpus, index = self.recorded.locate(draw)
        return corpus.qa_pair(index)

    def _generate(self, rng: random.Random) -> str:
        words: list[str] = []
        while True:
            context = tuple(words[-ORDER:])
            word = rng.choice(self._next_words[context])
            # A chain can go in circles, so the length is limited.
            if word is None or len(words) >= MAX_WORDS:
                return " ".join(words)
            words.append(word)


def _build_chain(texts: Iterable[str]) -> dict[_Context, list[str | None]]:
    """Map each context of up to ORDER words to all its successors; None ends a sentence."""
    next_words: dict[_Context, list[str | None]] = collections.defaultdict(list)
    for text in texts:
        words = text.split()
        for position, word in enumerate([*words, None]):
            # Contexts at the beginning of a sentence are shorter than ORDER.
            context = tuple(words[max(0, position - ORDER) : position])
            next_words[context].append(word)
    return next_words
