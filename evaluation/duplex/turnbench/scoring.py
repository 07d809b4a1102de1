"""Scores of predicted times of events against TurnBench's gold."""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evaluation.duplex.turnbench import SPEAKERS
from evaluation.duplex.turnbench.gold import Instant, TaskGold
from evaluation.record import ScoreValue

EARLY_S = 0.25
LATE_S = 3.0
"""A prediction matches an event from `EARLY_S` before it to `LATE_S` after it. Spans without events
also begin `EARLY_S` early."""
MAX_FP_RATE = 0.15
"""Entries with a higher false positive rate on the test split do not qualify for the ranking."""
PERCENTILES = (10, 50, 90)

Times = Mapping[int, Sequence[float]]
"""Speaker -> increasing times of predicted events of one task."""


@dataclasses.dataclass(frozen=True)
class Tally:
    """Result of matching predictions with the gold of one task."""

    latencies_ms: Sequence[float] = ()
    """Prediction minus event, for each match; negative if it came early."""
    missed: int = 0
    """Events without a match."""
    false: int = 0
    """Spans without events in which something was predicted."""
    quiet: int = 0
    """Spans without events in which nothing was predicted."""
    predicted: int = 0
    """Predictions, excluded ones as well."""

    def __add__(self, other: "Tally") -> "Tally":
        """The result for the conversations of both."""
        return Tally(
            [*self.latencies_ms, *other.latencies_ms],
            self.missed + other.missed,
            self.false + other.false,
            self.quiet + other.quiet,
            self.predicted + other.predicted,
        )

    @property
    def recall(self) -> float:
        """Share of the events that have a match; NaN without events."""
        num_events = len(self.latencies_ms) + self.missed
        return len(self.latencies_ms) / num_events if num_events else float("nan")

    @property
    def fp_rate(self) -> float:
        """Share of the spans without events in which something was predicted; NaN without any."""
        num_spans = self.false + self.quiet
        return self.false / num_spans if num_spans else float("nan")


class _Window(NamedTuple):
    """Times at which a prediction matches an event, bounds included."""

    from_s: float
    to_s: float

    def holds(self, time_s: float) -> bool:
        return self.from_s <= time_s <= self.to_s


def tally(gold: TaskGold, predicted: Times) -> Tally:
    """Match the predictions of both speakers of a conversation with the gold of a task.

    Predictions in excluded spans are dropped first. Events claim, in the order of time, the
    earliest prediction in their window that none has claimed. A prediction in the window of any
    event, matched or not, is no false positive. Several predictions in a span count once.
    """
    result = Tally()
    for speaker in SPEAKERS:
        # Each on their own channel: the other's events neither match nor end a window.
        result += _tally_speaker(_of_speaker(gold, speaker), predicted[speaker])
    return result


def _of_speaker(gold: TaskGold, speaker: int) -> TaskGold:
    return TaskGold(
        [each for each in gold.positives if each.speaker == speaker],
        [each for each in gold.negatives if each.speaker == speaker],
        [each for each in gold.excluded if each.speaker == speaker],
    )


def _tally_speaker(gold: TaskGold, predicted: Sequence[float]) -> Tally:
    # No tolerance for rounding anywhere: the official scorer has none.
    scored = [
        time_s
        for time_s in predicted
        if not any(span.start_s <= time_s <= span.end_s for span in gold.excluded)
    ]
    windows = _windows(gold.positives)
    # One prediction cannot match two events.
    unclaimed = list(scored)
    latencies_ms = []
    for time_s, window in windows:
        matching = [each for each in unclaimed if window.holds(each)]
        if matching:
            unclaimed.remove(matching[0])
            latencies_ms.append((matching[0] - time_s) * 1000.0)
    # All windows exempt, also those whose event another prediction matches, or none.
    charged = [
        time_s for time_s in unclaimed if not any(window.holds(time_s) for _, window in windows)
    ]
    num_false = 0
    for _, start_s, end_s in gold.negatives:
        first = bisect.bisect_left(charged, start_s - EARLY_S)
        num_false += first < len(charged) and charged[first] <= end_s
    return Tally(
        latencies_ms,
        missed=len(windows) - len(latencies_ms),
        false=num_false,
        quiet=len(gold.negatives) - num_false,
        predicted=len(predicted),
    )


def _windows(positives: Sequence[Instant]) -> list[tuple[float, _Window]]:
    """Time and window of every event of a speaker, in the order of time."""
    times_s = sorted(time_s for _, time_s in positives)
    windows = []
    for time_s in times_s:
        # The next event ends the window. One at the same time does not: only strictly later ones.
        later = bisect.bisect_right(times_s, time_s)
        next_s = times_s[later] if later < len(times_s) else float("inf")
        window = _Window(time_s - EARLY_S, min(time_s + LATE_S, next_s))
        windows.append((time_s, window))
    return windows


def scores_of(result: Tally) -> dict[str, ScoreValue]:
    """Scores of one task; those without a single case are left out.

    A system that predicts nothing at all does not support the task, rather than having a recall
    of 0.
    """
    scores: dict[str, ScoreValue] = {}
    num_events = len(result.latencies_ms) + result.missed
    num_spans = result.false + result.quiet
    if result.predicted and num_events:
        scores["recall"] = ScoreValue(result.recall, num_events)
    if result.predicted and num_spans:
        scores["fp_rate"] = ScoreValue(result.fp_rate, num_spans)
        scores["qualifies"] = ScoreValue(result.fp_rate <= MAX_FP_RATE, num_spans)
    if result.latencies_ms:
        for percentile in PERCENTILES:
            value = float(np.percentile(result.latencies_ms, percentile))
            scores[f"latency_p{percentile}_ms"] = ScoreValue(value, len(result.latencies_ms))
    return scores
