"""The turns of a dialogue: their kinds, the order they come in, and the state to name after each slice of time.

Time is cut into slices. A listener is asked after each of them whether somebody speaks who may want an answer
(`incomplete`), has just asked for one (`response`), or not (`ignore`).
"""

import dataclasses
import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

from configs.schema import Config, DialogueConfig
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
]


class Rule(NamedTuple):
    """What is true of every event of one kind. How often it occurs: `dialogue.shares`."""

    foreground: bool
    """Its slices are `incomplete` until the one that settles it; those of the others are `ignore`."""
    answered: bool
    """The slice that settles it is `response`, else `ignore`."""
    over_answer: Literal["never", "perhaps", "always"]
    """Whether it falls into the answer to the event before it."""


RULES: dict[Kind, Rule] = {
    "question": Rule(foreground=True, answered=True, over_answer="never"),
    "paused_question": Rule(foreground=True, answered=True, over_answer="never"),
    "interruption": Rule(foreground=True, answered=True, over_answer="always"),
    "talking_to_other": Rule(foreground=True, answered=False, over_answer="perhaps"),
    "background_speech": Rule(foreground=False, answered=False, over_answer="perhaps"),
    "noise": Rule(foreground=False, answered=False, over_answer="perhaps"),
    "backchannel": Rule(foreground=False, answered=False, over_answer="always"),
    "silence": Rule(foreground=False, answered=False, over_answer="never"),
}


@dataclasses.dataclass(frozen=True)
class Turn:
    """One event."""

    kind: Kind
    text: str
    """What is said; of noise its colour."""
    answer: str
    """What the model should reply; empty where nothing is asked of it."""
    start_s: float
    """Of the first sample that is heard."""
    end_s: float
    """Behind the last sample that is heard."""
    pause_s: tuple[float, float] | None
    """Of a cut question: where its silence begins and ends."""
    speaker: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """One reply of the model."""

    turn: int
    """Index of the turn that asks for it."""
    begin: int
    """Slice of its `response`: the first word can come when this slice is over."""
    end: int | None
    """Slice of the `response` to the question that came up during it; None: nothing takes its place."""


class Event(NamedTuple):
    """A turn to be."""

    kind: Kind
    over_answer: bool
    """It falls into the answer to the event before it."""
    disturbed: bool
    """The next event falls into the answer to this one, which must be long enough."""


def draw_events(rng: random.Random, config: DialogueConfig) -> list[Event]:
    """The events of a dialogue in their order.

    Their kinds are drawn by their shares alone; those that need an answer to fall into are put behind one. Where there
    is none a question is added, which makes questions a little more frequent than their share.
    """
    shares = [getattr(config.shares, kind) for kind in RULES]
    kinds = rng.choices(list(RULES), shares, k=rng.randint(*config.events))
    order = [kind for kind in kinds if RULES[kind].over_answer != "always"]
    intruders = [kind for kind in kinds if RULES[kind].over_answer == "always"]
    for kind in sorted(
        intruders, key=lambda kind: not RULES[kind].answered
    ):  # answers for the others come first
        _intrude(order, kind, rng)
    over = [
        _over_answer(before, kind, rng, config)
        for before, kind in zip([None, *order], order, strict=False)
    ]
    return [Event(*event) for event in zip(order, over, [*over[1:], False], strict=True)]


def _intrude(order: list[Kind], kind: Kind, rng: random.Random) -> None:
    """Put an event behind one whose answer is its alone."""
    answered = [i for i, host in enumerate(order, 1) if RULES[host].answered]
    free = [i for i in answered if i == len(order) or RULES[order[i]].over_answer != "always"]
    if free:
        order.insert(rng.choice(free), kind)
    else:
        order += ["question", kind]


def _over_answer(
    before: Kind | None, kind: Kind, rng: random.Random, config: DialogueConfig
) -> bool:
    if before is None or not RULES[before].answered or RULES[kind].over_answer == "never":
        return False
    return RULES[kind].over_answer == "always" or rng.random() < config.overlap_share


@dataclasses.dataclass(frozen=True)
class Slices:
    """How time is cut, in samples."""

    rate_hz: int
    length: int
    min_speech: int
    settle: int

    @classmethod
    def of(cls, config: Config) -> "Slices":
        rate_hz = config.features.sample_rate_hz
        spans_ms = (
            config.duplex.slice_ms,
            config.dialogue.min_speech_ms,
            config.dialogue.endpoint_silence_ms,
        )
        return cls(rate_hz, *(round(span_ms * rate_hz / 1000) for span_ms in spans_ms))

    @property
    def seconds(self) -> float:
        """Length of a slice."""
        return self.length / self.rate_hz

    def first_heard(self, start: int) -> int:
        """The first slice that holds enough of a sound that begins with sample `start`."""
        return self._before(start + self.min_speech)

    def settling(self, end: int) -> int:
        """The slice in which a sound that ends before sample `end` is known to be over."""
        return self._before(end + self.settle)

    def labels(self, turns: Sequence[Turn], count: int) -> tuple[TurnState, ...]:
        """The state of each of the first `count` slices."""
        labels: list[TurnState] = ["ignore"] * count
        for turn in turns:
            rule, settling = RULES[turn.kind], self.settling(round(turn.end_s * self.rate_hz))
            if rule.foreground:
                first = self.first_heard(round(turn.start_s * self.rate_hz))
                labels[first:settling] = ["incomplete"] * (settling - first)
            if rule.answered:
                labels[settling] = "response"
        return tuple(labels)

    def _before(self, sample: int) -> int:
        """The slice of the last sample before this one."""
        return (sample - 1) // self.length
