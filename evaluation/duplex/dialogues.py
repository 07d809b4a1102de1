"""Scores of turn-taking and of answers in dialogues, as pure functions of plain records.

A takeover is a decision to respond. Full-Duplex-Bench also requires four words or a second of
speech (`full_duplex_bench.took_over`); here most correct answers are a single word. A decision is
made at the end of its slice.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from duplexmamba.duplex.events import EmittedResponse
from duplexmamba.text.metrics import accuracy, f1, macro_f1
from duplexmamba.text.tokenizer import TURN_STATE_MARKERS
from evaluation.record import ScoreValue

IGNORED = ("talking_to_other", "background_speech", "noise", "backchannel")
"""Kinds of sounds that the model should not react to."""
TAKEN_OVER = {"question": "turn", "interruption": "interruption"}
"""Kinds of turns that the model should take over from -> first part of their score keys."""
AFTER_SOUND_S = 1.0
"""A decision up to this long after the end of a sound is attributed to the sound."""
FOREGROUND = (
    "question",
    "paused_question",
    "interruption",
    "talking_to_other",
    "out_of_grammar",
    "small_talk",
    "stop",
    "correction",
)
"""Kinds of speech at the user's level."""
SMALL_THRESHOLDS = [0.0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005]
"""Thresholds below 1 %, where the false positives of a well-trained model change most."""
THRESHOLDS = [*SMALL_THRESHOLDS, *(percent / 100 for percent in range(1, 101))]
"""Thresholds on the probability of `response`, increasing up to 1."""

Case = tuple[str, float]
"""Score key and the value of a single case, 1 for yes and 0 for no."""


class Turn(NamedTuple):
    """A turn or sound of a dialogue, and the expected reaction to it."""

    kind: str
    start_s: float
    end_s: float
    pause_s: tuple[float, float] | None = None
    """Begin and end of the silence within a paused question."""
    answer: str = ""
    """Expected answer; empty if the turn is no question."""
    window: range = range(0)
    """Slices in which a response that starts belongs to this turn."""
    disturbed_by: str = ""
    """Kind of the turn that falls into the answer to this one."""


@dataclasses.dataclass(frozen=True)
class PlayedDialogue:
    """A dialogue, and the behaviour of a session that it was played to."""

    id: str
    slice_s: float
    turns: Sequence[Turn]
    labels: Sequence[str]
    """Expected state of each slice."""
    states: Sequence[str] = tuple(TURN_STATE_MARKERS)
    """States that the session distinguishes. If `incomplete` is not one of them, everything except
    `response` counts as `ignore`."""
    predicted: Sequence[str] = ()
    """Predicted state of each slice."""
    response: Sequence[float] = ()
    """Predicted probability of the state `response` for each slice."""
    responses: Sequence[EmittedResponse] = ()
    paused: Sequence[bool] = ()
    """Whether a response pauses in each slice."""
    undisturbed: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """Index of a sound that should be ignored -> the response in progress when it begins, as it
    would end without the sound."""
    compute_ms: Sequence[float] = ()
    """Computing time of each slice."""
    lm_bytes: int = 0
    """Size of the language model's state in one branch."""
    all_bytes: int = 0
    """Largest size of the session state during the dialogue."""

    def first_slice(self, turn: Turn) -> int:
        """Index of the slice in which a turn begins."""
        return int(round(turn.start_s / self.slice_s, 6))

    def end_s(self, slice_: int) -> float:
        """End of a slice, which is when its decision is made."""
        return round((slice_ + 1) * self.slice_s, 6)


class ThresholdPoint(NamedTuple):
    """Rates at one threshold on the probability of `response`."""

    threshold: float
    recall: float
    """Share of the slices labelled `response` that reach the threshold."""
    false_positive_rate: float
    """Share of all other slices that reach it."""


def scores(dialogues: Sequence[PlayedDialogue]) -> dict[str, ScoreValue]:
    """Compute all scores, with units in their keys. A score without a single case is left out."""
    values: dict[str, list[float]] = collections.defaultdict(list)
    for dialogue in dialogues:
        for key, cases in cases_of(dialogue).items():
            values[key] += cases
    result = _state_scores(dialogues)
    # Every case weighs the same, so a dialogue with more turns weighs more.
    for key in sorted(values):
        cases = values[key]
        result[key] = ScoreValue(statistics.fmean(cases), len(cases))
    result |= _silence_scores(dialogues)
    result |= _cost(dialogues)
    return result


def cases_of(dialogue: PlayedDialogue) -> dict[str, list[float]]:
    """Single cases of the scores of turns and answers.

    Returns:
        Score key -> one value for each case: 1 for yes and 0 for no, or seconds.
    """
    cases: list[Case] = []
    for index, turn in enumerate(dialogue.turns):
        cases += _decision_cases(dialogue, turn)
        cases += _answer_cases(dialogue, turn)
        cases += _resumption_cases(dialogue, index, turn)
        cases += _yielding_cases(dialogue, turn)
    values: dict[str, list[float]] = collections.defaultdict(list)
    for key, value in cases:
        values[key].append(float(value))
    return dict(values)


def invented(utterances: Sequence[PlayedDialogue]) -> dict[str, ScoreValue]:
    """Share of utterances outside the grammar that get another response than they should.

    Args:
        utterances: played dialogues of a single turn each. No response at all is not counted as an
            invented one.
    """
    cases = []
    for utterance in utterances:
        [turn] = utterance.turns
        texts = [response.text for response in utterance.responses]
        cases.append(any(text != turn.answer for text in texts))
    if not cases:
        return {}
    return {"answer/invented_rate": ScoreValue(statistics.fmean(cases), len(cases))}


def confusion(dialogues: Sequence[PlayedDialogue]) -> dict[tuple[str, str], int]:
    """Numbers of slices by (label, predicted state), zeros included."""
    counts = collections.Counter(_state_pairs(dialogues))
    matrix: dict[tuple[str, str], int] = {}
    # The rows are the states of the labels, the columns only those that the session predicts.
    for label in TURN_STATE_MARKERS:
        for state in dialogues[0].states:
            matrix[label, state] = counts[label, state]
    return matrix


def curve(dialogues: Sequence[PlayedDialogue]) -> list[ThresholdPoint]:
    """Compute the rates of each of `THRESHOLDS`.

    Raises:
        ValueError: no slice is labelled `response`, or every slice is.
    """
    positives: list[float] = []
    negatives: list[float] = []
    for dialogue in dialogues:
        for label, probability in zip(dialogue.labels, dialogue.response, strict=True):
            if label == "response":
                positives.append(probability)
            else:
                negatives.append(probability)
    if not positives or not negatives:
        raise ValueError("no slice, or every one, is labelled response: raise data.test_dialogues")
    points = []
    for threshold in THRESHOLDS:
        recall = _share_reaching(positives, threshold)
        false_positive_rate = _share_reaching(negatives, threshold)
        points.append(ThresholdPoint(threshold, recall, false_positive_rate))
    return points


def _share_reaching(probabilities: list[float], threshold: float) -> float:
    """Share of the probabilities that are at least as high as a threshold."""
    num_reaching = sum(probability >= threshold for probability in probabilities)
    return num_reaching / len(probabilities)


# ---- states of slices


def _state_pairs(dialogues: Iterable[PlayedDialogue]) -> list[tuple[str, str]]:
    """(label, predicted state) of every slice."""
    pairs: list[tuple[str, str]] = []
    for dialogue in dialogues:
        pairs += zip(dialogue.labels, dialogue.predicted, strict=True)
    return pairs


def _state_scores(dialogues: Sequence[PlayedDialogue]) -> dict[str, ScoreValue]:
    """Scores over all slices; only those of `response` if a session does not know all states."""
    pairs = _state_pairs(dialogues)
    result = {}
    # Without the state `incomplete` the session cannot be right there, and accuracy over all
    # states would not be comparable with that of other sessions.
    labels: list[str] = ["response"]
    if set(dialogues[0].states) == set(TURN_STATE_MARKERS):
        labels = list(TURN_STATE_MARKERS)
        result["state/accuracy"] = ScoreValue(accuracy(pairs), len(pairs))
        result["state/macro_f1"] = ScoreValue(macro_f1(pairs), len(pairs))
    for label in labels:
        num_slices = sum(expected == label for expected, _ in pairs)
        # F1 of a state that never occurs is not defined.
        if num_slices:
            result[f"state/f1_{label}"] = ScoreValue(f1(pairs, label), num_slices)
    return result


# ---- turns and answers


def _decision_cases(dialogue: PlayedDialogue, turn: Turn) -> Iterator[Case]:
    """Whether and when the model decided to respond to a turn."""
    name = TAKEN_OVER.get(turn.kind)
    takeover_s = _takeover_s(dialogue, turn)
    if name:
        yield f"{name}/takeover_rate", takeover_s is not None
    if name and takeover_s is not None:
        # A decision before the end of the turn is premature, not fast.
        latency_s = takeover_s - turn.end_s
        yield f"{name}/latency_s", max(0.0, latency_s)
        yield f"{name}/premature_rate", takeover_s < turn.end_s
    interrupted = _response_in_progress(dialogue, turn)
    # An interruption that comes after the response has ended has nothing to stop.
    if turn.kind == "interruption" and interrupted:
        stop_s = dialogue.end_s(interrupted.stop_slice)
        yield "interruption/stop_s", stop_s - turn.start_s
    if turn.pause_s:
        _, pause_end_s = turn.pause_s
        decided = _decided_between(dialogue, turn.start_s, pause_end_s)
        yield "pause/false_takeover_rate", decided
    if turn.kind in IGNORED:
        until_s = _end_of_attribution_s(dialogue, turn)
        decided = _decided_between(dialogue, turn.start_s, until_s)
        yield f"ignore/false_takeover_rate/{turn.kind}", decided


def _end_of_attribution_s(dialogue: PlayedDialogue, turn: Turn) -> float:
    """Time up to which a decision to respond is attributed to an ignored sound.

    The next turn ends it, since a decision may then be a reaction to that turn.
    """
    end_s = turn.end_s + AFTER_SOUND_S
    for other in dialogue.turns:
        if other.start_s > turn.start_s:
            end_s = min(end_s, other.start_s)
    return end_s


def _answer_cases(dialogue: PlayedDialogue, turn: Turn) -> Iterator[Case]:
    """Whether the last response to a turn is the expected answer.

    An answer that another turn should interrupt is not scored.
    """
    text = None
    for response in dialogue.responses:
        if response.start_slice in turn.window:
            text = response.text
    # Word for word: the answers of the synthetic dialogues are single words or short phrases.
    correct = text == turn.answer
    if turn.answer and not turn.disturbed_by:
        yield "answer/exact_match", correct
        if turn.kind == "interruption":
            yield "answer/exact_match_after_interruption", correct
        if turn.pause_s:
            yield "answer/exact_match_after_pause", correct
    if turn.disturbed_by in IGNORED:
        yield "answer/exact_match_after_ignore", correct


def _resumption_cases(dialogue: PlayedDialogue, index: int, turn: Turn) -> Iterator[Case]:
    """Whether a response continued after a sound as it would have without the sound.

    If a later question interrupted the response, only the part before the question is compared.
    """
    response = _response_in_progress(dialogue, turn)
    if index not in dialogue.undisturbed or response is None:
        return
    expected = dialogue.undisturbed[index]
    interrupted = False
    for later in dialogue.turns[index + 1 :]:
        if later.answer:
            interrupted = response.stop_slice >= dialogue.first_slice(later)
            break
    # A prefix of the response would also match an answer that stopped for no reason.
    resumed = response.text == expected
    if interrupted:
        resumed = expected.startswith(response.text)
    yield "answer/resumed_after_ignore", resumed


def _yielding_cases(dialogue: PlayedDialogue, turn: Turn) -> Iterator[Case]:
    """Whether and when the response in progress gave way to speech of the user."""
    response = _response_in_progress(dialogue, turn)
    if turn.kind not in FOREGROUND or response is None:
        return
    limit_s = turn.end_s + AFTER_SOUND_S
    stop_s = dialogue.end_s(response.stop_slice)
    # A response that ends by itself in that time has nothing to obey.
    if turn.kind == "stop" and not (response.complete and stop_s <= limit_s):
        yield "stop/obeyed", stop_s <= limit_s
    first = dialogue.first_slice(turn)
    for slice_ in range(first, response.stop_slice + 1):
        is_interrupted = slice_ == response.stop_slice and not response.complete
        is_paused = dialogue.paused[slice_] or is_interrupted
        # A later pause is a reaction to something else.
        if is_paused and dialogue.end_s(slice_) <= limit_s:
            yield "onset/pause_s", dialogue.end_s(slice_) - turn.start_s
            return


def _response_in_progress(dialogue: PlayedDialogue, turn: Turn) -> EmittedResponse | None:
    """The response that the model was emitting when a turn began."""
    first = dialogue.first_slice(turn)
    for response in dialogue.responses:
        # Strictly later: a response that starts in the first slice of the turn may be about it.
        if response.start_slice < first <= response.stop_slice:
            return response
    return None


def _takeover_s(dialogue: PlayedDialogue, turn: Turn) -> float | None:
    """Time of the first decision to respond to a turn."""
    for response in dialogue.responses:
        if response.start_slice in turn.window:
            return dialogue.end_s(response.start_slice)
    return None


def _decided_between(dialogue: PlayedDialogue, after_s: float, until_s: float) -> bool:
    """Whether the model decided to respond after one time and not later than another."""
    for response in dialogue.responses:
        decision_s = dialogue.end_s(response.start_slice)
        if after_s < decision_s <= until_s:
            return True
    return False


# ---- silence


def _silence_scores(dialogues: Sequence[PlayedDialogue]) -> dict[str, ScoreValue]:
    """Rate of decisions to respond during silence.

    The first response to a question is not counted, however late it is.
    """
    num_decisions = 0
    num_slices = 0
    seconds = 0.0
    for dialogue in dialogues:
        num_silent = sum(_is_silent(dialogue, index) for index in range(len(dialogue.labels)))
        num_slices += num_silent
        seconds += num_silent * dialogue.slice_s
        takeovers_s = {_takeover_s(dialogue, turn) for turn in dialogue.turns}
        for response in dialogue.responses:
            is_takeover = dialogue.end_s(response.start_slice) in takeovers_s
            if _is_silent(dialogue, response.start_slice) and not is_takeover:
                num_decisions += 1
    # Dialogues without a pause between their turns say nothing about silence.
    if num_slices == 0:
        return {}
    per_hour = 3600 * num_decisions / seconds
    return {"silence/false_takeover_per_hour": ScoreValue(per_hour, num_slices)}


def _is_silent(dialogue: PlayedDialogue, slice_: int) -> bool:
    """Whether a slice overlaps no sound, nor the time to which its after-effects are attributed."""
    begin_s = dialogue.end_s(slice_ - 1)
    end_s = dialogue.end_s(slice_)
    for turn in dialogue.turns:
        if turn.kind == "silence":
            continue
        if turn.start_s < end_s and begin_s < turn.end_s + AFTER_SOUND_S:
            return False
    return True


# ---- cost


def _cost(dialogues: Sequence[PlayedDialogue]) -> dict[str, ScoreValue]:
    """Computing time per slice and size of the session state."""
    times_ms: list[float] = []
    for dialogue in dialogues:
        times_ms += dialogue.compute_ms
    times_ms.sort()
    count = len(times_ms)
    audio_s = sum(len(dialogue.compute_ms) * dialogue.slice_s for dialogue in dialogues)
    # Nearest rank: the smallest time that 99 % of the slices do not exceed.
    p99_ms = times_ms[math.ceil(0.99 * count) - 1]
    real_time_factor = sum(times_ms) / 1000 / audio_s
    lm_bytes = max(dialogue.lm_bytes for dialogue in dialogues)
    all_bytes = max(dialogue.all_bytes for dialogue in dialogues)
    return {
        "slice/median_ms": ScoreValue(statistics.median(times_ms), count),
        "slice/p99_ms": ScoreValue(p99_ms, count),
        "slice/real_time_factor": ScoreValue(real_time_factor, count),
        "memory/lm_bytes": ScoreValue(lm_bytes, len(dialogues)),
        "memory/all_bytes": ScoreValue(all_bytes, len(dialogues)),
    }
