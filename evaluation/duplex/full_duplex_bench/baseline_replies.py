"""What a voice assistant with a baseline for its turn-taking would say: always the same sentence."""

import numpy as np

from evaluation.duplex.full_duplex_bench.words import Word
from evaluation.duplex.turn_scores import TurnScores

REPLY = ("okay", "let", "me", "think", "about", "that", "for", "a", "moment")
"""Long enough to take the turn."""
WORD_S = 0.3


def replies(scores: TurnScores, threshold: float) -> list[Word]:
    """The words of replies that begin when the score rises to a threshold.

    Args:
        scores: of the user's channel.
        threshold: on `ended`.

    Returns:
        Words; a reply falls silent as soon as the user speaks.
    """
    reaches = scores.ended >= threshold
    rises = reaches & ~np.concatenate([[False], reaches[:-1]])
    spoken_at_s = scores.times_s[scores.addressed > 0]
    words: list[Word] = []
    for begin_s in scores.times_s[rises].tolist():
        later_s = spoken_at_s[spoken_at_s > begin_s]
        until_s = float(later_s[0]) if len(later_s) else float("inf")
        for index, text in enumerate(REPLY):
            start_s = begin_s + index * WORD_S
            if start_s < until_s:
                words.append(Word(text, start_s, min(start_s + WORD_S, until_s)))
    return words
