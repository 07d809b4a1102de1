"""v1's rule for back-channels: take-over, frequency, and how their timing resembles people's."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evaluation.duplex.full_duplex_bench.timing import Span, merge
from evaluation.duplex.full_duplex_bench.words import Word

LONGEST_S = 3.0
"""Longer speech takes the turn."""
SHORT_S = 1.0
MAX_WORDS = 3
MAX_SHORT_WORDS = 2
"""Speech with more words than `MAX_WORDS` takes the turn; other speech does not if it is shorter
than `SHORT_S` and has at most `MAX_SHORT_WORDS`."""
BIN_S = 0.2
EMPTY = 1e-10
"""Added to every bin of the histogram, so that none is empty."""
JOINED_S = 0.1
"""Words at most this far apart are one span, as in Silero VAD."""


class Backchannels(NamedTuple):
    """Scores of one item."""

    takes_over: bool
    per_s: float
    """Back-channels in a second of output."""
    distance: float | None
    """Jensen-Shannon distance (natural logarithm) between the timing of the model's and of
    people's back-channels; 1 without any. None if people's timing is not known."""


def spans_of(words: Sequence[Word]) -> list[Span]:
    """Spans of speech, from the times of words."""
    return merge([(word.start_s, word.end_s) for word in words], JOINED_S)


def score(
    spans: Sequence[Span],
    words: Sequence[Word],
    duration_s: float,
    listeners: Sequence[float] | None,
) -> Backchannels:
    """Score the output for one item.

    Args:
        spans: of the model's speech, by time.
        words: of the model.
        duration_s: length of the output.
        listeners: share of people's back-channels in each part of the recording, or None.
    """
    takes_over = False
    onsets_s = []
    for start_s, end_s in spans:
        if end_s - start_s > LONGEST_S:
            takes_over = True
            break
        onsets_s.append(start_s)
        # The verdict on the last span is that on the item.
        num_words = sum(start_s <= word.start_s < end_s for word in words)
        takes_over = _takes_over(end_s - start_s, num_words)
    distance = None
    if listeners is not None:
        distance = timing_distance(onsets_s, duration_s, listeners)
    return Backchannels(takes_over, len(onsets_s) / duration_s, distance)


def _takes_over(length_s: float, num_words: int) -> bool:
    if num_words > MAX_WORDS:
        return True
    return not (length_s < SHORT_S and num_words <= MAX_SHORT_WORDS)


def timing_distance(
    onsets_s: Sequence[float], duration_s: float, listeners: Sequence[float]
) -> float:
    """Distance between the histogram of onsets and that of people, from 0 to 1.

    Args:
        onsets_s: of the model's back-channels.
        duration_s: length of the recording.
        listeners: people's histogram, of any number of bins; it is interpolated.
    """
    if not onsets_s:
        return 1.0
    num_bins = max(1, math.ceil(round(duration_s / BIN_S, 6)))
    counts, _ = np.histogram(onsets_s, bins=num_bins, range=(0, num_bins * BIN_S))
    model = counts + EMPTY
    positions = np.linspace(0, 1, num_bins)
    # People's histogram may have bins of another length.
    people = np.interp(positions, np.linspace(0, 1, len(listeners)), listeners) + EMPTY
    return _jensen_shannon(model / model.sum(), people / people.sum())


def _jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon distance of two distributions (N,) without zeros, natural logarithm."""
    mean = (p + q) / 2
    from_p = np.sum(p * np.log(p / mean))
    from_q = np.sum(q * np.log(q / mean))
    divergence = float(from_p + from_q) / 2
    # Rounding may make the divergence of equal distributions negative.
    return math.sqrt(max(0.0, divergence))
