"""Scores of turn-taking and of answers in our own dialogues: pure functions over plain records, of live sessions or
made by hand.

To take over is to decide to respond. Full-Duplex-Bench asks for four words or a second of speech besides
(`full_duplex_bench.took_over`); here most right answers are a single word. A decision is made where its slice ends.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from duplexmamba.text.metrics import exact_match, f1, macro_f1
from duplexmamba.text.tokenizer import TURN_STATE_MARKERS

IGNORED = ("talking_to_other", "background_speech", "noise", "backchannel")
"""Kinds of sounds that nothing should come of."""
TAKEN = {"question": "turn", "interruption": "interruption"}
"""Kinds of turns to take over from, and what their scores are called."""
AFTER_S = 1.0
"""A decision so long after a sound still counts as made of it."""
THRESHOLDS = [0.0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, *(i / 100 for i in range(1, 101))]


class Turn(NamedTuple):
    """What happens in a dialogue, and what should come of it."""

    kind: str
    start_s: float
    end_s: float
    pause_s: tuple[float, float] | None = None
    """Of a cut question: where its silence begins and ends."""
    answer: str = ""
    """Wanted; empty where nothing is asked."""
    window: range = range(0)
    """Slices in which a reply that begins is one to this turn."""
    disturbed_by: str = ""
    """The kind of the turn that falls into its answer."""


class Reply(NamedTuple):
    """An answer that was given."""

    begun: int
    """Slice of the decision."""
    stopped: int
    """Slice of its last token, or of the decision that cut it off."""
    text: str


@dataclasses.dataclass(frozen=True)
class Heard:
    """A dialogue, and what a session made of it."""

    id: str
    slice_s: float
    turns: Sequence[Turn]
    labels: Sequence[str]
    """The right state of each slice."""
    states: Sequence[str] = tuple(TURN_STATE_MARKERS)
    """Those that the session tells apart. Where `incomplete` is not one of them, all but `response` is `ignore`."""
    named: Sequence[str] = ()
    """The state that the session named."""
    response: Sequence[float] = ()
    """The probability it gave to `response`."""
    replies: Sequence[Reply] = ()
    unheard: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """By the index of a sound to be ignored, the answer under way when it begins, as it would be without hearing it."""
    compute_ms: Sequence[float] = ()
    lm_bytes: int = 0
    """The language model's memory of one branch."""
    all_bytes: int = 0
    """Everything that the session remembered, at its most."""

    def first_slice(self, turn: Turn) -> int:
        """In which a turn begins."""
        return int(round(turn.start_s / self.slice_s, 6))

    def end_s(self, slice_: int) -> float:
        """Of a slice: when its decision is made."""
        return round((slice_ + 1) * self.slice_s, 6)


class Score(NamedTuple):
    """A number, and how many cases it was taken from."""

    value: float
    cases: int


def scores(heard: Sequence[Heard]) -> dict[str, Score]:
    """All of them, units in their names. One without a single case is left out."""
    cases: dict[str, list[float]] = collections.defaultdict(list)
    for h in heard:
        for name, values in findings(h).items():
            cases[name] += values
    found = {
        name: Score(statistics.fmean(values), len(values)) for name, values in sorted(cases.items())
    }
    return _states(heard) | found | _silence(heard) | _compute(heard)


def _states(heard: Sequence[Heard]) -> dict[str, Score]:
    """Of all slices; of a session that does not tell all states apart, its responses alone."""
    pairs, found = [pair for h in heard for pair in zip(h.labels, h.named, strict=True)], {}
    labels: list[str] = (
        list(TURN_STATE_MARKERS)
        if set(heard[0].states) == set(TURN_STATE_MARKERS)
        else ["response"]
    )
    if len(labels) > 1:
        found["state/accuracy"] = Score(exact_match(pairs), len(pairs))
        found["state/macro_f1"] = Score(macro_f1(pairs), len(pairs))
    for label in labels:
        if slices := sum(right == label for right, _ in pairs):
            found[f"state/f1_{label}"] = Score(f1(pairs, label), slices)
    return found


def findings(heard: Heard) -> dict[str, list[float]]:
    """Case by case, what the scores of turns and answers are the means of; 1 stands for yes."""
    found: dict[str, list[float]] = collections.defaultdict(list)
    for number, turn in enumerate(heard.turns):
        for name, value in (
            *_decisions(heard, turn),
            *_answers(heard, turn),
            *_resumed(heard, number, turn),
        ):
            found[name].append(float(value))
    return dict(found)


def confusion(heard: Sequence[Heard]) -> dict[tuple[str, str], int]:
    """Slices by (label, named), of all that can be named."""
    counts = collections.Counter(
        pair for h in heard for pair in zip(h.labels, h.named, strict=True)
    )
    return {
        (label, named): counts[label, named]
        for label in TURN_STATE_MARKERS
        for named in heard[0].states
    }


class Point(NamedTuple):
    """What a threshold on the probability of `response` would do."""

    threshold: float
    recall: float
    """Share of the slices labelled `response` that reach it."""
    false_positive_rate: float
    """Share of all others that do."""


def curve(heard: Sequence[Heard]) -> list[Point]:
    """One point for each of `THRESHOLDS`. Raises ValueError: no slice, or every one, is labelled `response`."""
    given: dict[bool, list[float]] = {True: [], False: []}
    for h in heard:
        for label, probability in zip(h.labels, h.response, strict=True):
            given[label == "response"].append(probability)
    if not given[True] or not given[False]:
        raise ValueError("no slice, or every one, is labelled response: raise data.test_dialogues")
    return [Point(at, _reaching(given[True], at), _reaching(given[False], at)) for at in THRESHOLDS]


def _reaching(probabilities: list[float], threshold: float) -> float:
    return sum(p >= threshold for p in probabilities) / len(probabilities)


def _decisions(heard: Heard, turn: Turn) -> Iterator[tuple[str, float]]:
    """What was decided about a turn."""
    name, taken_s = TAKEN.get(turn.kind), _taken_s(heard, turn)
    if name:
        yield f"{name}/takeover_rate", taken_s is not None
    if name and taken_s is not None:
        yield f"{name}/latency_s", max(0.0, taken_s - turn.end_s)
        yield f"{name}/premature_rate", taken_s < turn.end_s
    old = _under_way(heard, turn)
    if turn.kind == "interruption" and old:
        yield "interruption/stop_s", heard.end_s(old.stopped) - turn.start_s
    if turn.pause_s:
        yield "pause/false_takeover_rate", _decided(heard, turn.start_s, turn.pause_s[1])
    if turn.kind in IGNORED:
        until_s = min(
            [turn.end_s + AFTER_S, *(t.start_s for t in heard.turns if t.start_s > turn.start_s)]
        )
        yield f"ignore/false_takeover_rate/{turn.kind}", _decided(heard, turn.start_s, until_s)


def _answers(heard: Heard, turn: Turn) -> Iterator[tuple[str, float]]:
    """How the last reply to a turn reads, if nothing was to take its place."""
    given = [reply.text for reply in heard.replies if reply.begun in turn.window]
    right = given[-1:] == [turn.answer]
    if turn.answer and not turn.disturbed_by:
        yield "answer/exact_match", right
        if turn.kind == "interruption":
            yield "answer/exact_match_after_interruption", right
        if turn.pause_s:
            yield "answer/exact_match_after_pause", right
    if turn.disturbed_by in IGNORED:
        yield "answer/exact_match_after_ignore", right


def _resumed(heard: Heard, number: int, turn: Turn) -> Iterator[tuple[str, float]]:
    """Whether an answer went on as if a sound had not been heard; where a question came up later, up to that."""
    reply = _under_way(heard, turn)
    if number in heard.unheard and reply:
        later = [heard.first_slice(t) for t in heard.turns[number + 1 :] if t.answer]
        asked = bool(later) and reply.stopped >= later[0]
        unheard = heard.unheard[number]
        yield (
            "answer/resumed_after_ignore",
            unheard.startswith(reply.text) if asked else reply.text == unheard,
        )


def _under_way(heard: Heard, turn: Turn) -> Reply | None:
    """The answer that was being given when a turn began."""
    first = heard.first_slice(turn)
    return next((reply for reply in heard.replies if reply.begun < first <= reply.stopped), None)


def _taken_s(heard: Heard, turn: Turn) -> float | None:
    """When the turn was taken over from, first."""
    return next(
        (heard.end_s(reply.begun) for reply in heard.replies if reply.begun in turn.window), None
    )


def _decided(heard: Heard, after_s: float, until_s: float) -> bool:
    return any(after_s < heard.end_s(reply.begun) <= until_s for reply in heard.replies)


def _silence(heard: Sequence[Heard]) -> dict[str, Score]:
    """Decisions where nothing is heard or was lately; the first after a question, however late, is not one of them."""
    decided, slices, seconds = 0, 0, 0.0
    for h in heard:
        silent = {i for i in range(len(h.labels)) if _nothing_at(h, i)}
        late = {_taken_s(h, turn) for turn in h.turns}
        decided += sum(
            reply.begun in silent and h.end_s(reply.begun) not in late for reply in h.replies
        )
        slices, seconds = slices + len(silent), seconds + len(silent) * h.slice_s
    return (
        {"silence/false_takeover_per_hour": Score(3600 * decided / seconds, slices)}
        if slices
        else {}
    )


def _nothing_at(heard: Heard, slice_: int) -> bool:
    begin_s, end_s = heard.end_s(slice_ - 1), heard.end_s(slice_)
    sounds = [turn for turn in heard.turns if turn.kind != "silence"]
    return not any(turn.start_s < end_s and begin_s < turn.end_s + AFTER_S for turn in sounds)


def _compute(heard: Sequence[Heard]) -> dict[str, Score]:
    """What it costs to listen and to answer."""
    spent_ms = sorted(ms for h in heard for ms in h.compute_ms)
    audio_s, count = sum(len(h.compute_ms) * h.slice_s for h in heard), len(spent_ms)
    return {
        "slice/median_ms": Score(statistics.median(spent_ms), count),
        "slice/p99_ms": Score(spent_ms[math.ceil(0.99 * count) - 1], count),
        "slice/real_time_factor": Score(sum(spent_ms) / 1000 / audio_s, count),
        "memory/lm_bytes": Score(max(h.lm_bytes for h in heard), len(heard)),
        "memory/all_bytes": Score(max(h.all_bytes for h in heard), len(heard)),
    }
