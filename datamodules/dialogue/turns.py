"""Turns of a dialogue: their kinds, their order, and the turn state of each slice of time.

Time is divided into slices. After each slice a listener predicts whether somebody is speaking who
may want an answer (`incomplete`), has just asked for one (`response`), or neither (`ignore`).
"""

import dataclasses
import random
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from configs.schema import Config, DialogueConfig
from duplexmamba.config import EncoderConfig
from duplexmamba.text.tokenizer import TurnState

Kind = Literal[
    "question",
    "paused_question",
    "interruption",
    "talking_to_other",
    "background_speech",
    "noise",
    "backchannel",
    "silence",
    "out_of_grammar",
    "small_talk",
    "stop",
    "correction",
]


class Rule(NamedTuple):
    """Properties of all events of one kind. `dialogue.shares` says how often the kind occurs."""

    foreground: bool
    """Its slices are `incomplete` up to its endpoint slice; those of the others are `ignore`."""
    answered: bool
    """Its endpoint slice is `response`, else `ignore`."""
    overlaps_response: Literal["never", "sometimes", "always"]
    """Whether it begins during the response to the event before it."""
    can_be_overlapped: bool = False
    """Whether its response can be long enough for the next event to begin during it."""


RULES: dict[Kind, Rule] = {
    "question": Rule(
        foreground=True, answered=True, overlaps_response="never", can_be_overlapped=True
    ),
    "paused_question": Rule(
        foreground=True, answered=True, overlaps_response="never", can_be_overlapped=True
    ),
    "interruption": Rule(
        foreground=True, answered=True, overlaps_response="always", can_be_overlapped=True
    ),
    "talking_to_other": Rule(foreground=True, answered=False, overlaps_response="sometimes"),
    "background_speech": Rule(foreground=False, answered=False, overlaps_response="sometimes"),
    "noise": Rule(foreground=False, answered=False, overlaps_response="sometimes"),
    "backchannel": Rule(foreground=False, answered=False, overlaps_response="always"),
    "silence": Rule(foreground=False, answered=False, overlaps_response="never"),
    "out_of_grammar": Rule(foreground=True, answered=True, overlaps_response="sometimes"),
    "small_talk": Rule(foreground=True, answered=True, overlaps_response="never"),
    "stop": Rule(foreground=True, answered=True, overlaps_response="always"),
    "correction": Rule(foreground=True, answered=True, overlaps_response="never"),
}
CORRECTED: tuple[Kind, ...] = ("question", "paused_question", "interruption")
"""Kinds of events that a correction can follow."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """One event of a dialogue with its exact times."""

    kind: Kind
    text: str
    """Words that are spoken; for noise its colour."""
    answer: str
    """Expected response of the model; empty if the turn asks for none, or if it is unknown."""
    start_s: float
    """Time of the first audible sample."""
    end_s: float
    """Time after the last audible sample."""
    pause_s: tuple[float, float] | None
    """Begin and end of the silence within a paused question; of several the longest."""
    speaker: str
    other_pauses_s: tuple[tuple[float, float], ...] = ()
    """Further silences within a recorded turn."""

    @property
    def pauses_s(self) -> tuple[tuple[float, float], ...]:
        """Begin and end of all silences within the turn."""
        return (self.pause_s, *self.other_pauses_s) if self.pause_s else self.other_pauses_s


@dataclasses.dataclass(frozen=True)
class Answer:
    """One response of the model."""

    turn: int
    """Index of the turn that asks for it."""
    begin: int
    """Its `response` slice: the first word can be emitted when this slice is over."""
    end: int | None
    """`response` slice of the question that interrupts it; None: it is not interrupted."""
    is_known: bool = True
    """Whether its words are those that the model is to give. Otherwise they only stand for the time
    that a person takes to answer: they have no loss and no score."""
    spoken_s: tuple[float, float] | None = None
    """Begin and end of the answer if a person gives it; None: it begins as soon as the model can."""


class Event(NamedTuple):
    """A planned turn, before it has text, sound and times."""

    kind: Kind
    overlaps_response: bool
    """It begins during the response to the event before it."""
    response_is_overlapped: bool
    """The next event begins during the response to this one, which must be long enough."""
    is_corrected: bool
    """The next event is a correction of this one."""


def draw_events(rng: random.Random, config: DialogueConfig) -> list[Event]:
    """Draw the events of a dialogue in their order.

    Kinds are drawn by their shares. Kinds that must overlap a response are then placed after an
    event that has one, and corrections directly after a question. If there is none left, a question
    is added, which makes questions a little more frequent than their share.
    """
    shares = [getattr(config.shares, kind) for kind in RULES]
    kinds = rng.choices(list(RULES), shares, k=rng.randint(*config.events))
    # The other events form the order first, since they do not depend on another event.
    order = [kind for kind in kinds if not _depends(kind)]
    overlapping = [kind for kind in kinds if RULES[kind].overlaps_response == "always"]
    # First the kinds whose own responses can be overlapped by the others.
    overlapping.sort(key=lambda kind: not RULES[kind].can_be_overlapped)
    can_be_overlapped = [kind for kind, rule in RULES.items() if rule.can_be_overlapped]
    for kind in overlapping:
        _insert_after(order, kind, can_be_overlapped, rng)
    # Last, so that nothing is inserted between a question and its correction.
    for kind in kinds:
        if kind == "correction":
            _insert_after(order, kind, CORRECTED, rng)

    overlaps = []
    previous: Kind | None = None
    for kind in order:
        overlaps.append(_draw_overlap(previous, kind, rng, config))
        previous = kind
    # The last event has no successor that could overlap its response.
    next_overlaps = [*overlaps[1:], False]
    corrected = [kind == "correction" for kind in order[1:]] + [False]
    return [Event(*event) for event in zip(order, overlaps, next_overlaps, corrected, strict=True)]


def _depends(kind: Kind) -> bool:
    """Whether an event needs another one directly before it."""
    return kind == "correction" or RULES[kind].overlaps_response == "always"


def _insert_after(
    order: list[Kind], kind: Kind, predecessors: Collection[Kind], rng: random.Random
) -> None:
    """Insert an event after one of certain kinds that no other event depends on."""
    free_positions = []
    for position, previous in enumerate(order, 1):
        if previous not in predecessors:
            continue
        is_last = position == len(order)
        # Only one event can overlap a response or correct an order.
        if is_last or not _depends(order[position]):
            free_positions.append(position)
    if free_positions:
        order.insert(rng.choice(free_positions), kind)
    else:
        order += ["question", kind]


def _draw_overlap(
    previous: Kind | None, kind: Kind, rng: random.Random, config: DialogueConfig
) -> bool:
    """Decide whether an event begins during the response to the previous one."""
    overlap = RULES[kind].overlaps_response
    if previous is None or not RULES[previous].can_be_overlapped or overlap == "never":
        return False
    if overlap == "always":
        return True
    return rng.random() < config.overlap_share


def lag_ms(encoder: EncoderConfig) -> float:
    """Milliseconds by which the frames of an encoder are late: its look-ahead."""
    if encoder.context == "window":
        return encoder.lookahead_ms
    return 0.0


@dataclasses.dataclass(frozen=True)
class Slices:
    """Division of time into slices; all spans in samples."""

    rate_hz: int
    length: int
    """Samples of a slice."""
    min_speech: int
    """Samples of speech in the first slice that is labelled `incomplete`."""
    endpoint_silence: int
    """Samples of silence after which speech counts as complete."""
    lag: int = 0
    """Samples by which the frames of the encoder are late: nobody can decide on what sounds in them."""

    @classmethod
    def of(cls, config: Config) -> "Slices":
        """Read slices and thresholds from the configuration, in samples."""
        rate_hz = config.features.sample_rate_hz

        def num_samples(span_ms: float) -> int:
            return round(span_ms * rate_hz / 1000)

        return cls(
            rate_hz,
            length=num_samples(config.duplex.slice_ms),
            min_speech=num_samples(config.dialogue.min_speech_ms),
            endpoint_silence=num_samples(config.dialogue.endpoint_silence_ms),
            lag=num_samples(lag_ms(config.encoder)),
        )

    @property
    def seconds(self) -> float:
        """Length of a slice in seconds."""
        return self.length / self.rate_hz

    def onset_slice(self, start: int) -> int:
        """Return the first slice with `min_speech` heard samples of a sound that starts at `start`."""
        return self._slice_before(start + self.min_speech + self.lag)

    def endpoint_slice(self, end: int) -> int:
        """Return the slice at whose end a sound that stops before sample `end` counts as over."""
        return self._slice_before(end + self.endpoint_silence + self.lag)

    def labels(self, turns: Sequence[Turn], count: int) -> tuple[TurnState, ...]:
        """Return the turn state of each of the first `count` slices."""
        labels: list[TurnState] = ["ignore"] * count
        for turn in turns:
            rule = RULES[turn.kind]
            endpoint = self.endpoint_slice(round(turn.end_s * self.rate_hz))
            # The endpoint slice itself is labelled by `answered`: `response` or `ignore`.
            if rule.foreground:
                onset = self.onset_slice(round(turn.start_s * self.rate_hz))
                labels[onset:endpoint] = ["incomplete"] * (endpoint - onset)
            if rule.answered:
                labels[endpoint] = "response"
        return tuple(labels)

    def _slice_before(self, sample: int) -> int:
        """Index of the slice that contains the last sample before this one."""
        return (sample - 1) // self.length
