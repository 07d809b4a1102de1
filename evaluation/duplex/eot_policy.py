"""eot-bench's policies: when an agent that hears silence takes the turn, and what that costs.

A policy has a threshold on the probability that the turn is over, a delay before which it never
acts, and a timeout after which it always does. Written from the rules of livekit/eot-bench
(Apache-2.0), first-crossing mode.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

THRESHOLDS = tuple(round(0.01 * step, 2) for step in range(101))
DELAYS_S = tuple(round(0.1 * step, 1) for step in range(2, 11))
TIMEOUTS_S = tuple(round(0.5 * step, 1) for step in range(2, 8))
LATENCY_BUDGETS_S = (0.3, 0.6)
CUTOFF_BUDGETS = (0.05, 0.10)
SHORTEST_HOLD_S = 0.2
LONGEST_HOLD_S = 5.0
"""Other silences within a turn are left out; ends of turns are not."""
SLACK = 1e-9


class Silence(NamedTuple):
    """A silence, and the probabilities that the turn is over."""

    is_end: bool
    """Whether it is the end of the turn, else a hold."""
    duration_s: float
    after_s: Sequence[float]
    """(N,) times since the silence began, increasing."""
    ended: Sequence[float]
    """(N,) probability at each of them, from audio up to it."""


class PolicyPoint(NamedTuple):
    """What a policy does."""

    threshold: float
    delay_s: float
    timeout_s: float
    cutoff_rate: float
    """Share of the holds in which it takes the turn."""
    latency_s: float
    """Mean time until it takes the turn at its end."""


def is_scored(silence: Silence) -> bool:
    """Whether a silence counts."""
    if silence.is_end:
        return True
    longest_s = LONGEST_HOLD_S + SLACK
    return SHORTEST_HOLD_S - SLACK <= silence.duration_s <= longest_s


def sweep(silences: Sequence[Silence]) -> list[PolicyPoint]:
    """All policies on silences of which each counts.

    Raises:
        ValueError: there is no hold, or no end.
    """
    holds = [silence for silence in silences if not silence.is_end]
    ends = [silence for silence in silences if silence.is_end]
    if not holds or not ends:
        raise ValueError(
            f"{len(holds)} holds and {len(ends)} ends of turns: both are needed; give more rows"
        )
    hold_s = np.array([silence.duration_s for silence in holds])
    points = []
    for threshold in THRESHOLDS:
        hold_crossing_s = _first_crossings_s(holds, threshold)
        end_crossing_s = _first_crossings_s(ends, threshold)
        for delay_s, timeout_s in itertools.product(DELAYS_S, TIMEOUTS_S):
            if timeout_s + SLACK < delay_s:
                continue
            hold_fire_s = np.minimum(np.maximum(delay_s, hold_crossing_s), timeout_s)
            end_fire_s = np.minimum(np.maximum(delay_s, end_crossing_s), timeout_s)
            # Speech that goes on in the moment of the decision is not cut off.
            cutoff_rate = float(np.mean(hold_s > hold_fire_s + SLACK))
            latency_s = float(np.mean(end_fire_s))
            points.append(PolicyPoint(threshold, delay_s, timeout_s, cutoff_rate, latency_s))
    return points


def _first_crossings_s(silences: Sequence[Silence], threshold: float) -> np.ndarray:
    """(N,) time in each silence at which the probability first exceeds a threshold; infinity if
    never."""
    crossings_s = []
    for silence in silences:
        times_s = [
            time_s
            for time_s, ended in zip(silence.after_s, silence.ended, strict=True)
            if ended > threshold
        ]
        crossings_s.append(min(times_s, default=float("inf")))
    return np.array(crossings_s)


def cutoff_rate_within(points: Sequence[PolicyPoint], latency_s: float) -> float | None:
    """Least cut-off rate of the policies that are as fast; None if none is."""
    rates = [each.cutoff_rate for each in points if each.latency_s <= latency_s + SLACK]
    return min(rates, default=None)


def latency_within_s(points: Sequence[PolicyPoint], cutoff_rate: float) -> float | None:
    """Least latency of the policies that cut off as seldom; None if none does."""
    latencies_s = [each.latency_s for each in points if each.cutoff_rate <= cutoff_rate + SLACK]
    return min(latencies_s, default=None)
