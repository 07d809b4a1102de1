"""Turn-taking of several systems on the same turns: false take-overs in pauses against latency.

A system takes over in the first step in which its score rises to its threshold. Pure functions of plain
records; every threshold is one point, and the thresholds of a system are a curve.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evaluation.duplex.turn_scores import TIME_SLACK_S, TurnScores

TIMEOUT_S = 3.0
"""A system that has not taken over this long after the end of a turn is counted with this latency."""
NUM_QUANTILES = 100
"""Thresholds of a curve: that many quantiles of the scores that occur."""


class HeardTurn(NamedTuple):
    """A turn of the user, and the scores of a system from its begin on."""

    start_s: float
    end_s: float
    pause_s: tuple[float, float] | None
    """Begin and end of the silence within it."""
    scores: TurnScores


class Point(NamedTuple):
    """What a system does at one threshold."""

    threshold: float
    false_takeover_rate: float
    """Share of the turns with a pause that are taken over before the pause ends."""
    latency_s: float
    """Mean time from the end of a turn to the take-over; 0 if it comes before the end."""
    premature_rate: float
    """Share of the turns that are taken over before they end, a pause apart."""
    missed_rate: float
    """Share of the turns that are not taken over within `TIMEOUT_S`."""


def point(turns: Sequence[HeardTurn], threshold: float) -> Point:
    """The behaviour of a system at a threshold.

    The end of a turn is scored as if nothing had happened in its pause, so that both axes hold all
    turns. That is what eot-bench does.

    Args:
        turns: with the system's scores; at least one has a pause.
        threshold: a score that rises to it takes over.
    """
    false = []
    latencies_s = []
    premature = []
    missed = []
    for turn in turns:
        after_s = turn.start_s
        if turn.pause_s is not None:
            after_s = turn.pause_s[1]
            taken_s = _first_s(turn.scores, threshold, turn.start_s, turn.pause_s[1])
            false.append(taken_s is not None)
        # What happened in the pause is counted above, and does not spare the system the end.
        deadline_s = turn.end_s + TIMEOUT_S
        taken_s = _first_s(turn.scores, threshold, after_s, deadline_s)
        missed.append(taken_s is None)
        delay_s = (deadline_s if taken_s is None else taken_s) - turn.end_s
        latencies_s.append(max(0.0, delay_s))
        premature.append(delay_s < -TIME_SLACK_S)
    return Point(
        threshold,
        statistics.fmean(false),
        statistics.fmean(latencies_s),
        statistics.fmean(premature),
        statistics.fmean(missed),
    )


def _first_s(scores: TurnScores, threshold: float, after_s: float, until_s: float) -> float | None:
    """Time at which the score first rises to a threshold, after one time and not after another.

    A score that is high when the turn begins is that of the silence before it: nobody would take
    over again before the user has spoken.
    """
    reaches = scores.ended >= threshold
    rises = np.zeros(len(reaches), bool)
    rises[1:] = reaches[1:] & ~reaches[:-1]
    for time_s in scores.times_s[rises].tolist():
        is_after = time_s > after_s + TIME_SLACK_S
        if is_after and time_s <= until_s + TIME_SLACK_S:
            return time_s
    return None


def curve(turns: Sequence[HeardTurn]) -> list[Point]:
    """The points of a system at quantiles of its scores, by increasing threshold."""
    pooled = np.concatenate([turn.scores.ended for turn in turns])
    positive = pooled[pooled > 0]
    if not len(positive):
        return []
    # Quantiles: the scores of one system crowd at 0 and 1, those of another do not.
    thresholds = np.unique(np.quantile(positive, np.linspace(0, 1, NUM_QUANTILES)))
    return [point(turns, threshold) for threshold in thresholds.tolist()]


def beaten_by(model: Sequence[Point], other: Point) -> Point | None:
    """How the model compares with one point of another system.

    Returns:
        None if the other system is better: no threshold of the model has as few false take-overs
        at a latency that is as low. Else the model's point of the fewest false take-overs among
        those that are as fast.
    """
    # As fast or faster: a model may not buy fewer false take-overs with latency.
    as_fast = [each for each in model if each.latency_s <= other.latency_s + TIME_SLACK_S]
    best = min(as_fast, key=lambda each: each.false_takeover_rate, default=None)
    if best is None or best.false_takeover_rate > other.false_takeover_rate:
        return None
    return best


def findings(
    curves: Mapping[str, Sequence[Point]], settings: Mapping[str, Mapping[str, Point]], model: str
) -> list[str]:
    """Sentences about each setting of each baseline beside the model.

    Args:
        curves: system -> its points.
        settings: system -> setting -> its point.
        model: name of the model among the systems.
    """
    sentences = []
    for system, points in settings.items():
        if system == model:
            continue
        for setting, other in points.items():
            where = (
                f"{system} {setting} ({other.false_takeover_rate:.1%} false take-overs in pauses "
                f"at {other.latency_s:.2f} s)"
            )
            best = beaten_by(curves[model], other)
            if best is None:
                sentences.append(f"{where} beats the model")
            else:
                sentences.append(
                    f"{where}: the model has {best.false_takeover_rate:.1%} at "
                    f"{best.latency_s:.2f} s"
                )
    return sentences
