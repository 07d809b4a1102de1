"""What a turn-taking system says of one audio channel: scores that a threshold turns into decisions."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

TIME_SLACK_S = 1e-6
"""Sums of decimal times miss each other by rounding."""


class TurnScores(NamedTuple):
    """Scores of one channel, step by step. Each depends on no audio after its time."""

    times_s: np.ndarray
    """(T,) increasing; end of the audio that the scores of a step have heard."""
    ended: np.ndarray
    """(T,) in [0, 1]: whether the speaker's turn is over."""
    addressed: np.ndarray
    """(T,) in [0, 1]: whether somebody speaks to the listener."""


Listen = Callable[[np.ndarray], TurnScores]
"""(n,) samples at the model's sample rate -> scores."""


class System(NamedTuple):
    """A model or a baseline that decides when a turn is over."""

    name: str
    listen: Listen
    operating_points: Mapping[str, float]
    """Name of a setting that people use -> threshold on `ended` that gives it."""


def at(scores: TurnScores, values: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """The latest values that are known at some times; 0 before the first one.

    Args:
        scores: gives the times of the values.
        values: (T,), one of the fields of `scores`.
        times_s: (N,) any times.

    Returns:
        (N,) values.
    """
    wanted_s = times_s + TIME_SLACK_S
    indices = np.searchsorted(scores.times_s, wanted_s, side="right") - 1
    padded = np.append(values, 0.0)
    # Index -1, before the first step, is that of the appended zero.
    return padded[indices]


def between(scores: TurnScores, from_s: float, to_s: float) -> TurnScores:
    """The steps later than one time and not later than another."""
    # `right`: a step that ends exactly then has heard nothing of what comes after.
    bounds_s = np.array([from_s, to_s]) + TIME_SLACK_S
    first, stop = np.searchsorted(scores.times_s, bounds_s, side="right").tolist()
    inside = slice(first, stop)
    return TurnScores(scores.times_s[inside], scores.ended[inside], scores.addressed[inside])
