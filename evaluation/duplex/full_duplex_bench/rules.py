"""Scores of an item from the words of the model."""

import collections
import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from evaluation.duplex.full_duplex_bench import backchannels
from evaluation.duplex.full_duplex_bench.items import Item, time_at
from evaluation.duplex.full_duplex_bench.timing import Span, timing
from evaluation.duplex.full_duplex_bench.words import Word, cropped
from evaluation.record import ScoreValue

MIN_TURN_S = 1.0
MAX_BACKCHANNEL_WORDS = 3
"""Output that is shorter than `MIN_TURN_S` and has no more words than this does not take the
turn."""


@dataclasses.dataclass(frozen=True)
class Output:
    """What a system said to an item."""

    words: Sequence[Word]
    duration_s: float
    """Length of the recording."""
    user_spans: Sequence[Span] = ()
    """Speech of the user in the whole recording; only v1.5 needs it."""
    listeners: Sequence[float] | None = None
    """Timing of people's back-channels, where it is known."""


def took_over(words: Sequence[Word]) -> bool:
    """Whether words take the turn: more than three, or a second from first to last."""
    if not words:
        return False
    duration_s = round(words[-1].end_s - words[0].start_s, 6)
    return duration_s >= MIN_TURN_S or len(words) > MAX_BACKCHANNEL_WORDS


def answer_to_interruption(item: Item, words: Sequence[Word]) -> list[Word]:
    """The words from the end of an interruption on.

    Raises:
        ValueError: the annotation lacks the time.
    """
    return cropped(words, time_at(item, 0, "timestamp", 1))


def score_item(item: Item, output: Output) -> dict[str, list[float]]:
    """Single cases of each score. Raises ValueError: the annotation lacks a time."""
    if item.kind == "overlap":
        return timing(output.user_spans, backchannels.spans_of(output.words))
    if item.kind == "backchannel":
        return _score_backchannels(output)
    if item.kind == "pause_handling":
        return {"takeover_rate": [took_over(output.words)]}
    words = output.words
    if item.kind == "user_interruption":
        # Words before it belong to the interrupted answer.
        words = answer_to_interruption(item, words)
        since_s = time_at(item, 0, "timestamp", 1)
    else:
        # Where the human partner began to reply: the annotation has no end of the user's turn.
        since_s = time_at(item, 0, "timestamp", 0)
    takes_over = took_over(words)
    latencies_s = []
    # Items without a takeover have no latency and do not count in its mean.
    if takes_over:
        latencies_s.append(max(0.0, words[0].start_s - since_s))
    return {"takeover_rate": [takes_over], "latency_s": latencies_s}


def _score_backchannels(output: Output) -> dict[str, list[float]]:
    spans = backchannels.spans_of(output.words)
    result = backchannels.score(spans, output.words, output.duration_s, output.listeners)
    cases: dict[str, list[float]] = {
        "takeover_rate": [result.takes_over],
        "num_frequency": [result.per_s],
    }
    if result.distance is not None:
        cases["num_jsd"] = [result.distance]
    return cases


def scores(outputs: Sequence[tuple[Item, Output]], way: str) -> dict[str, ScoreValue]:
    """Means over the items of each group, as <way>/<kind>/<group>/<score>.

    Args:
        outputs: items and what the system said to them.
        way: text_emission or spoken.
    """
    cases: dict[str, list[float]] = collections.defaultdict(list)
    for item, output in outputs:
        for name, values in score_item(item, output).items():
            cases[f"{way}/{item.kind}/{item.group}/{name}"] += values
    return means(cases)


def means(cases: Mapping[str, Sequence[float]]) -> dict[str, ScoreValue]:
    """Mean and number of the cases of each score; a score without any is left out."""
    result = {}
    for name, values in cases.items():
        if values:
            result[name] = ScoreValue(statistics.fmean(values), len(values))
    return result
