"""Excerpts of recorded conversations, to train on and to score, in the form of composed dialogues.

A conversation of ten minutes is too long for one training item, and for most of it one side only
listens. So it is cut into excerpts around the turns of its user, and only these are read. Slices are
counted from the beginning of the conversation, so that labels of an excerpt are those of the whole.

Glossary: S slices of a conversation.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from datamodules.conversations.conversation import Conversation, Side, Span
from datamodules.conversations.labels import labels_of, num_labelled_slices
from datamodules.conversations.turn_taking import UserTurn, turn_taking
from datamodules.dialogue.dialogues import Dialogue
from datamodules.dialogue.turns import RULES, Answer, Kind, Slices, Turn
from datamodules.sources.audio import read_audio
from duplexmamba.text.tokenizer import TurnState

LEAD_S = 1.0
"""Sound before the first turn of an excerpt."""
TAIL_S = 1.0
"""Sound after the slice in which its last turn is over."""
STATES: tuple[TurnState, ...] = ("response", "incomplete", "ignore")
"""Turn states by their numbers in `Listener.labels`."""
UNKNOWN = -1
"""Number of a slice without a label."""


@dataclasses.dataclass(frozen=True)
class Listener:
    """A conversation as one listener hears it, without what training has no use for."""

    id: str
    side: Side
    """What the microphone hears."""
    agent: Side | None
    """What the other side says; None: not recorded."""
    duration_s: float
    turns: tuple[Turn, ...]
    """Everything that the user is heard to say, by time; with times of the conversation."""
    labels: np.ndarray
    """(S,) int8, index in STATES, or UNKNOWN."""
    answers: tuple[Answer, ...]
    """By time; with slices of the conversation."""


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """A part of a conversation."""

    listener: Listener
    slices: range

    @property
    def id(self) -> str:
        """Name of the conversation and the first slice."""
        return f"{self.listener.id}@{self.slices.start}"


def listener_of(conversation: Conversation, slices: Slices, words_per_s: float) -> Listener:
    """Label a conversation.

    Args:
        conversation: one in which `problem_of` finds no problem.
        slices: division of time.
        words_per_s: pace of the model's answers.
    """
    taking = turn_taking(conversation)
    labels = labels_of(taking, slices, num_labelled_slices(conversation, taking, slices))
    user_turns: list[tuple[UserTurn | None, Turn]] = []
    for user_turn in taking.turns:
        user_turns.append((user_turn, _turn(user_turn, words_per_s)))
    for start_s, end_s in taking.backchannels:
        user_turns.append((None, _sound("backchannel", start_s, end_s)))
    for spoken in conversation.of("user"):
        kind: Kind = spoken.kind or "question"  # type: ignore[assignment]
        if not RULES[kind].foreground and kind not in ("backchannel", "silence"):
            user_turns.append((None, _sound(kind, spoken.start_s, spoken.end_s)))
    user_turns.sort(key=lambda pair: pair[1].start_s)
    return Listener(
        id=conversation.id,
        side=conversation.user,
        agent=conversation.agent,
        duration_s=conversation.duration_s,
        turns=tuple(turn for _, turn in user_turns),
        labels=_as_numbers(labels),
        answers=_answers(user_turns, labels, slices, words_per_s),
    )


def _as_numbers(labels: Sequence[TurnState | None]) -> np.ndarray:
    """(S,) int8: a byte for each slice, since corpora have hundreds of hours."""
    numbers = [UNKNOWN if label is None else STATES.index(label) for label in labels]
    return np.array(numbers, np.int8)


def _as_labels(numbers: np.ndarray) -> list[TurnState | None]:
    """The inverse of `_as_numbers`."""
    return [None if number == UNKNOWN else STATES[number] for number in numbers]


def _turn(user_turn: UserTurn, words_per_s: float) -> Turn:
    pauses = sorted(user_turn.pauses, key=lambda pause: pause[0] - pause[1])
    answer = user_turn.answer
    if answer is None:
        # The model is slower than people: so many words take it as long as the person's reply.
        num_words = round(user_turn.reply_speech_s * words_per_s)
        answer = " ".join(user_turn.reply_text.split()[:num_words])
    return Turn(
        kind=user_turn.kind,
        text=user_turn.text,
        answer=answer if user_turn.ending == "shift" else "",
        start_s=user_turn.start_s,
        end_s=user_turn.end_s,
        pause_s=pauses[0] if pauses else None,
        speaker=user_turn.speaker,
        other_pauses_s=tuple(pauses[1:]),
    )


def _sound(kind: Kind, start_s: float, end_s: float) -> Turn:
    return Turn(kind, "", "", start_s, end_s, None, "")


def _answers(
    turns: Sequence[tuple[UserTurn | None, Turn]],
    labels: Sequence[TurnState | None],
    slices: Slices,
    words_per_s: float,
) -> tuple[Answer, ...]:
    """An answer for each slice that is labelled `response`."""
    by_slice: dict[int, Answer] = {}
    for index, (user_turn, turn) in enumerate(turns):
        if user_turn is None or user_turn.ending != "shift":
            continue
        begin = slices.endpoint_slice(round(turn.end_s * slices.rate_hz))
        if labels[begin] == "response":
            by_slice[begin] = Answer(index, begin, None, is_known=user_turn.answer is not None)
    answers = [by_slice[begin] for begin in sorted(by_slice)]
    for number, answer in enumerate(answers[:-1]):
        num_words = len(turns[answer.turn][1].answer.split())
        num_slices = math.ceil(num_words / words_per_s / slices.seconds)
        next_begin = answers[number + 1].begin
        if next_begin < answer.begin + num_slices:
            answers[number] = dataclasses.replace(answer, end=next_begin)
    return tuple(answers)


def cut(listener: Listener, slices: Slices, max_s: float) -> list[Excerpt]:
    """Cut a conversation into excerpts around its turns.

    Neighbouring turns are in one excerpt as long as it lasts `max_s` at most. A turn that lasts
    longer is divided. Excerpts do not overlap, and those without a label are left out.
    """
    max_slices = int(max_s / slices.seconds)
    ranges: list[range] = []
    for turn in listener.turns:
        core, padded = _slices_of(turn, slices, len(listener.labels))
        previous = ranges[-1] if ranges else range(0)
        if ranges and padded.stop <= previous.stop:
            continue
        if ranges and padded.stop - previous.start <= max_slices:
            ranges[-1] = range(previous.start, padded.stop)
            continue
        if ranges and core.start < previous.stop:
            # The silence after the last turn ends where this one begins.
            ranges[-1] = range(previous.start, max(core.start, previous.start + 1))
        first = max(padded.start, ranges[-1].stop if ranges else 0)
        ranges.append(range(first, padded.stop))
    excerpts = []
    for whole in ranges:
        for part in _divided(whole, max_slices):
            if (listener.labels[part.start : part.stop] != UNKNOWN).any():
                excerpts.append(Excerpt(listener, part))
    return excerpts


def _slices_of(turn: Turn, slices: Slices, count: int) -> tuple[range, range]:
    """Slices of a turn up to the one in which it is over, alone and with the sound around it."""
    start = round(turn.start_s * slices.rate_hz)
    first = max(0, start // slices.length)
    endpoint = slices.endpoint_slice(round(turn.end_s * slices.rate_hz))
    lead = round(LEAD_S / slices.seconds)
    tail = round(TAIL_S / slices.seconds)
    stop = min(endpoint + 1, count)
    return range(first, stop), range(max(0, first - lead), min(stop + tail, count))


def _divided(whole: range, max_slices: int) -> list[range]:
    """Parts of equal length, none of more than `max_slices`."""
    num_parts = -(-len(whole) // max_slices)
    borders = [whole.start + len(whole) * number // num_parts for number in range(num_parts + 1)]
    return [range(borders[number], borders[number + 1]) for number in range(num_parts)]


class Excerpts(Dataset[Dialogue]):
    """Excerpts by index, each read when it is indexed.

    Args:
        excerpts: the excerpts.
        slices: division of time.
    """

    def __init__(self, excerpts: Sequence[Excerpt], slices: Slices):
        self.excerpts = excerpts
        self.slices = slices

    def __len__(self) -> int:
        return len(self.excerpts)

    def duration_s(self, index: int) -> float:
        """Length in seconds, without reading audio."""
        return len(self.excerpts[index].slices) * self.slices.seconds

    def __getitem__(self, index: int) -> Dialogue:
        """Read an excerpt, and nothing else of its sound file.

        Raises:
            UnusableAudio: a problem that only decoding shows.
        """
        excerpt = self.excerpts[index]
        turns, turn_indices = self._turns(excerpt)
        inside = slice(excerpt.slices.start, excerpt.slices.stop)
        labels = _as_labels(excerpt.listener.labels[inside])
        answers = []
        for answer in excerpt.listener.answers:
            begin = answer.begin - excerpt.slices.start
            if answer.begin not in excerpt.slices:
                continue
            if answer.turn not in turn_indices:
                # Of a turn that ends at the border nothing is heard.
                labels[begin] = None
                continue
            end = None if answer.end is None else answer.end - excerpt.slices.start
            turn = turn_indices[answer.turn]
            answers.append(dataclasses.replace(answer, turn=turn, begin=begin, end=end))
        return Dialogue(
            id=excerpt.id,
            samples=self.read(excerpt.listener.side, excerpt),
            turns=turns,
            labels=tuple(labels),
            answers=tuple(answers),
        )

    def _turns(self, excerpt: Excerpt) -> tuple[tuple[Turn, ...], dict[int, int]]:
        """Turns that are heard in an excerpt, with its times; and old index -> new index."""
        begin_s = excerpt.slices.start * self.slices.seconds
        length_s = len(excerpt.slices) * self.slices.seconds
        turns: list[Turn] = []
        indices = {}
        for index, turn in enumerate(excerpt.listener.turns):
            start_s = max(0.0, turn.start_s - begin_s)
            end_s = min(length_s, turn.end_s - begin_s)
            if start_s < end_s:
                indices[index] = len(turns)
                pauses = _pauses_within(turn, begin_s, start_s, end_s)
                heard = dataclasses.replace(
                    turn,
                    start_s=start_s,
                    end_s=end_s,
                    pause_s=pauses[0] if pauses else None,
                    other_pauses_s=tuple(pauses[1:]),
                )
                turns.append(heard)
        return tuple(turns), indices

    def read(self, side: Side, excerpt: Excerpt) -> np.ndarray:
        """(n,) float32: one side of an excerpt, with silence after the end of the conversation."""
        begin_s = excerpt.slices.start * self.slices.seconds
        end_s = min(excerpt.slices.stop * self.slices.seconds, excerpt.listener.duration_s)
        samples = read_audio(
            side.audio,
            self.slices.rate_hz,
            side.start_s + begin_s,
            end_s - begin_s,
            side.channel,
            min_s=0,
            max_s=math.inf,
            may_be_silent=True,
        )
        padded = np.zeros(len(excerpt.slices) * self.slices.length, np.float32)
        count = min(len(samples), len(padded))
        padded[:count] = samples[:count]
        return padded


def _pauses_within(turn: Turn, begin_s: float, start_s: float, end_s: float) -> list[Span]:
    """Pauses of a turn that lie within an excerpt.

    Args:
        turn: the turn, with times of the conversation.
        begin_s: begin of the excerpt.
        start_s: begin of the turn within the excerpt.
        end_s: its end.
    """
    pauses = []
    for pause_start_s, pause_end_s in turn.pauses_s:
        first_s = pause_start_s - begin_s
        last_s = pause_end_s - begin_s
        # A pause at the border is not heard as one.
        if start_s < first_s and last_s < end_s:
            pauses.append((first_s, last_s))
    return pauses
