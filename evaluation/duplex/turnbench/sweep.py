"""Probabilities of events -> times of events, and the choice of a threshold on the dev split."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evaluation.duplex.turnbench import SPEAKERS
from evaluation.duplex.turnbench.gold import TaskGold
from evaluation.duplex.turnbench.scoring import Tally, tally

NUM_QUANTILES = 512
GRID = tuple(round(0.01 * step, 2) for step in range(1, 100))
REFRACTORY_S = 2.0
"""A rising edge sooner than this after a committed one is no event."""
DEV_FP_RATE = 0.10
"""Highest false positive rate on the dev split at which a threshold may be chosen."""

Probabilities = Mapping[int, Sequence[float]]
"""Speaker -> probability of an event of one task in each frame."""


class Choice(NamedTuple):
    """A threshold and what it gives on the dev split."""

    threshold: float
    tally: Tally


def num_frames(duration_s: float, frame_rate_hz: float) -> int:
    """Frames that the benchmark expects of a conversation."""
    return math.floor(duration_s * frame_rate_hz)


def commit(probabilities: Sequence[float], frame_rate_hz: float, threshold: float) -> list[float]:
    """Times of the events of one speaker: ends of the frames in which the probability rises
    strictly above a threshold.

    An edge within `REFRACTORY_S` of the last event is dropped and does not prolong that time.
    """
    refractory_frames = max(1, round(REFRACTORY_S * frame_rate_hz))
    above = np.asarray(probabilities, dtype=np.float64) > threshold
    # Nothing comes before the first frame, so that it may rise.
    before = np.concatenate([[False], above[:-1]])
    times_s = []
    last = -refractory_frames
    for frame in np.flatnonzero(above & ~before).tolist():
        if frame - last >= refractory_frames:
            times_s.append((frame + 1) / frame_rate_hz)
            last = frame
    return times_s


def commit_all(
    probabilities: Probabilities, frame_rate_hz: float, threshold: float
) -> dict[int, list[float]]:
    """Times of the events of both speakers; see `commit`."""
    return {
        speaker: commit(probabilities[speaker], frame_rate_hz, threshold) for speaker in SPEAKERS
    }


def candidates(conversations: Sequence[Probabilities]) -> list[float]:
    """Thresholds to try: quantiles of all positive probabilities, and a grid of hundredths."""
    pooled: list[float] = []
    for probabilities in conversations:
        for speaker in SPEAKERS:
            pooled += [value for value in probabilities[speaker] if value > 0]
    # Zeros add no outcome: a threshold is never below them.
    if not pooled:
        return list(GRID)
    quantiles = np.quantile(pooled, np.linspace(0.0, 1.0, NUM_QUANTILES))
    return np.unique([*quantiles, *GRID]).tolist()


def choose(dev: Sequence[tuple[Probabilities, TaskGold]], frame_rate_hz: float) -> Choice | None:
    """The threshold of the highest recall whose false positive rate is at most `DEV_FP_RATE`.

    Args:
        dev: probabilities and gold of one task in every conversation of the dev split.
        frame_rate_hz: of the probabilities.

    Returns:
        The lowest one of several; None if none has so few false positives, or the task has no
        spans without events.
    """
    best: Choice | None = None
    for threshold in candidates([probabilities for probabilities, _ in dev]):
        result = Tally()
        for probabilities, gold in dev:
            result += tally(gold, commit_all(probabilities, frame_rate_hz, threshold))
        # Comparisons with NaN are false.
        is_allowed = result.fp_rate <= DEV_FP_RATE
        if is_allowed and (best is None or result.recall > best.tally.recall):
            best = Choice(threshold, result)
    return best
