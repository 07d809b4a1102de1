"""Dialogues with exact times: what the user's microphone hears, and what a listener should make of every slice of it.

Sounds and their order are drawn at random; the rules are those of `turns`.
"""

import dataclasses
import itertools
import math
import random

import numpy as np

from configs.schema import Config, DialogueConfig
from datamodules.corpus import Corpus
from datamodules.dialogue.phrases import (
    NOISES,
    ROOMS,
    Phrase,
    Phrases,
    Recorded,
    Spoken,
    babble,
    broken_off,
    faded,
    noise,
)
from datamodules.dialogue.turns import RULES, Answer, Event, Kind, Slices, Turn, draw_events
from datamodules.synthetic import grammar
from datamodules.synthetic import other_speech as asides
from datamodules.synthetic.grammar import Split
from duplexmamba.models.timing import FrameTiming
from duplexmamba.text.tokenizer import TurnState

BABBLING = 5
"""Voices of a babble."""
WITHIN_ANSWER = (0.1, 0.7)
"""Part of an answer in which what falls into it begins."""


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """A conversation, as the user's microphone hears it."""

    id: str
    samples: np.ndarray
    """(n,) float32 in [-1, 1], whole slices."""
    turns: tuple[Turn, ...]
    """By time; no two overlap."""
    labels: tuple[TurnState, ...]
    """One for each slice."""
    answers: tuple[Answer, ...]
    """By time."""

    def reply_windows(self, slice_s: float) -> list[range]:
        """For each answer the slices in which a reply that begins is one to its question: from the question's first one
        on, until the next question begins."""
        starts = [int(self.turns[answer.turn].start_s / slice_s) for answer in self.answers]
        return [
            range(first, stop) for first, stop in itertools.pairwise([*starts, len(self.labels)])
        ]


class Dialogues:
    """Dialogues without end. Each is a pure function of (seed, split, index), in any process and order.

    Args:
        questions: what is asked.
        asides: what is said to somebody else.
        backchannels: what is said while listening.
        split: names the dialogues; which voices and sentences occur is up to the phrases.
        seed: another seed, other dialogues.
        size: what `len` answers; indices beyond it are as good.
        slices: how time is cut.

    Raises:
        ValueError: no answer is long enough for anything to happen during it.
    """

    def __init__(
        self, questions: Phrases, asides: Phrases, backchannels: Phrases, config: DialogueConfig, split: Split,
        seed: int, size: int, slices: Slices,
    ) -> None:  # fmt: skip
        self.questions, self.asides, self.backchannels = questions, asides, backchannels
        self.config, self.split, self.seed, self.size = config, split, seed, size
        self.slices, self.rate_hz = slices, slices.rate_hz
        self._long_words = math.ceil(config.min_interrupted_answer_s * config.words_per_s)
        disturbing = config.shares.interruption + config.shares.backchannel + config.overlap_share
        if disturbing and questions.longest_answer < self._long_words:
            raise ValueError(
                f"dialogue.min_interrupted_answer_s={config.min_interrupted_answer_s:g} at dialogue.words_per_s={config.words_per_s:g} asks "
                f"for an answer of {self._long_words} words, and the longest has {questions.longest_answer}: lower "
                "min_interrupted_answer_s, or set overlap_share, shares.interruption and shares.backchannel to 0"
            )

    def __len__(self) -> int:
        return self.size

    def events(self, index: int) -> list[Event]:
        """Of a dialogue, without making it."""
        return draw_events(self._rng(index), self.config)

    def __getitem__(self, index: int) -> Dialogue:
        """Raises UnusableAudio: one of its recordings is."""
        rng = self._rng(index)
        events, user = draw_events(rng, self.config), rng.getrandbits(32)
        phrases = [self._phrase(event, rng, user) for event in events]
        starts, answers, size = self._place(events, phrases, rng)
        turns = [self._turn(*placed) for placed in zip(events, phrases, starts, strict=True)]
        return Dialogue(
            id=f"dialogue-{self.split}-{self.seed}-{index}",
            samples=self._mix(events, phrases, starts, size, rng),
            turns=tuple(turns),
            labels=self.slices.labels(turns, size // self.slices.length),
            answers=tuple(answers),
        )

    def answer_s(self, text: str) -> float:
        """Seconds that the model takes to say an answer."""
        return len(text.split()) / self.config.words_per_s

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"dialogue {self.seed} {self.split} {index}")

    def _phrase(self, event: Event, rng: random.Random, user: int) -> Phrase:
        if event.kind == "silence":
            return Phrase("", "", "", np.zeros(self._span(self.config.silence_s, rng), np.float32))
        if event.kind == "noise":
            return self._noise(rng)
        if event.kind == "background_speech":
            return self._overheard(rng)
        source = {"talking_to_other": self.asides, "backchannel": self.backchannels}.get(
            event.kind, self.questions
        )
        phrase = source.phrase(rng, user, self._long_words if event.disturbed else 0)
        if event.kind == "paused_question":
            return broken_off(phrase, rng, self._span(self.config.pause_s, rng), self.rate_hz)
        return phrase

    def _noise(self, rng: random.Random) -> Phrase:
        colour, size, sound_rng = (
            rng.choice(NOISES),
            self._span(self.config.noise_s, rng),
            _sound_rng(rng),
        )
        if colour == "babble":
            samples = babble([self._overheard(rng) for _ in range(BABBLING)], size, sound_rng)
        else:
            samples = noise(colour, size, sound_rng, self.rate_hz)
        return Phrase(colour, "", "", faded(samples, self.rate_hz))

    def _overheard(self, rng: random.Random) -> Phrase:
        return rng.choice([self.questions, self.asides]).phrase(rng, rng.getrandbits(32))

    def _place(
        self, events: list[Event], phrases: list[Phrase], rng: random.Random
    ) -> tuple[list[int], list[Answer], int]:
        """The first sample of each phrase, the answers, and the samples of the whole."""
        starts: list[int] = []
        answers: list[Answer] = []
        settled, answer = 0, range(0)  # samples: where nothing is open any more; of the last answer
        for turn, (event, phrase) in enumerate(zip(events, phrases, strict=True)):
            if event.over_answer:
                starts.append(answer.start + int(rng.uniform(*WITHIN_ANSWER) * len(answer)))
            else:
                starts.append(max(settled, answer.stop) + self._span(self.config.gap_s, rng))
            settling = self.slices.settling(starts[-1] + len(phrase.samples))
            settled = (settling + 1) * self.slices.length
            if RULES[event.kind].answered:
                if event.over_answer:
                    answers[-1] = dataclasses.replace(answers[-1], end=settling)
                answers.append(Answer(turn, settling, None))
                answer = range(
                    settled, settled + round(self.answer_s(phrase.answer) * self.rate_hz)
                )
        size = max(settled, answer.stop) + self._span(self.config.gap_s, rng)
        return starts, answers, size + -size % self.slices.length

    def _turn(self, event: Event, phrase: Phrase, start: int) -> Turn:
        def seconds(span: range) -> tuple[float, float]:
            return (start + span.start) / self.rate_hz, (start + span.stop) / self.rate_hz

        answer = phrase.answer if RULES[event.kind].answered else ""
        pause_s = seconds(phrase.pause) if phrase.pause else None
        return Turn(
            event.kind,
            phrase.text,
            answer,
            *seconds(range(len(phrase.samples))),
            pause_s,
            phrase.speaker,
        )

    def _mix(
        self,
        events: list[Event],
        phrases: list[Phrase],
        starts: list[int],
        size: int,
        rng: random.Random,
    ) -> np.ndarray:
        """(size,) float32: everything at its place and level, in a room that is never quite silent."""
        user_db = rng.uniform(*self.config.level_db)
        room = noise(rng.choice(ROOMS), size, _sound_rng(rng), self.rate_hz)
        samples = room * _gain(user_db - rng.uniform(*self.config.room_snr_db))
        for event, phrase, start in zip(events, phrases, starts, strict=True):
            gain = _gain(user_db + self._relative_db(event.kind, rng))
            samples[start : start + len(phrase.samples)] += gain * phrase.samples
        return samples / np.maximum(1, np.abs(samples).max())

    def _relative_db(self, kind: Kind, rng: random.Random) -> float:
        """Level of an event relative to the user's voice."""
        if kind == "background_speech":
            return rng.uniform(*self.config.background_speech_db)
        return -rng.uniform(*self.config.noise_snr_db) if kind == "noise" else 0.0

    def _span(self, range_s: list[float], rng: random.Random) -> int:
        """Samples."""
        return round(rng.uniform(*range_s) * self.rate_hz)


def open_dialogues(
    config: Config, split: Split, size: int, recorded: Corpus | None = None
) -> Dialogues:
    """Dialogues of one configuration.

    Args:
        recorded: where questions come from; None: from `grammar`. Everything else is spoken by espeak-ng.

    Raises:
        ValueError: slices are no whole speech embeddings, or the answers do not fit; says what to do.
    """
    FrameTiming.of(config.model).encoder_frames("duplex.slice_ms", config.duplex.slice_ms)
    rate_hz = config.features.sample_rate_hz
    longest = max(len(core.answer.split()) for cores in grammar.KINDS.values() for core in cores)
    return Dialogues(
        questions=Spoken(grammar.draw, split, rate_hz, longest) if recorded is None else Recorded(recorded, rate_hz),
        asides=Spoken(asides.draw, split, rate_hz),
        backchannels=Spoken(asides.draw_backchannel, split, rate_hz),
        config=config.dialogue, split=split, seed=config.seed, size=size, slices=Slices.of(config),
    )  # fmt: skip


def _sound_rng(rng: random.Random) -> np.random.Generator:
    return np.random.default_rng(rng.getrandbits(64))


def _gain(level_db: float) -> np.float32:
    return np.float32(10 ** (level_db / 20))
