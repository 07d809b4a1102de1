"""Dialogues with exact times: the user's audio, and the expected turn state of every slice.

Sounds and their order are drawn at random; the rules are those of `turns`.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from configs.schema import Config, DataConfig, DialogueConfig, EffectsConfig
from datamodules.corpus import Corpus
from datamodules.dialogue import natural
from datamodules.dialogue.echo import echo
from datamodules.dialogue.phrases import (
    NOISES,
    ROOM_NOISES,
    Phrase,
    Phrases,
    Recorded,
    Spoken,
    babble,
    faded,
    insert_pause,
    noise,
)
from datamodules.dialogue.turns import RULES, Answer, Event, Kind, Slices, Turn, draw_events
from datamodules.synthetic import corrections, grammar, other_speech, out_of_grammar, small_talk
from datamodules.synthetic.effects import apply_effects
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.test_effects import has_effects
from datamodules.synthetic.voices import Voices, open_voices
from duplexmamba.config import DuplexConfig
from duplexmamba.models.timing import FrameTiming
from duplexmamba.text.tokenizer import TurnState

BABBLE_VOICES = 5
"""Number of voices that are mixed into babble."""
WITHIN_ANSWER = (0.1, 0.7)
"""Part of an answer in which an overlapping event begins, as fractions of its duration."""


@dataclasses.dataclass(frozen=True)
class Dialogue:
    """A conversation as the user's microphone records it."""

    id: str
    samples: np.ndarray
    """(n,) float32 in [-1, 1], a whole number of slices."""
    turns: tuple[Turn, ...]
    """In order of time; no two overlap."""
    labels: tuple[TurnState | None, ...]
    """One per slice; None: nothing is known, so that it has no loss and no score."""
    answers: tuple[Answer, ...]
    """In order of time."""
    features: np.ndarray | None = None
    """As in `Utterance`."""

    @property
    def known_labels(self) -> tuple[TurnState, ...]:
        """The labels of a composed dialogue, of which everything is known."""
        labels = tuple(label for label in self.labels if label is not None)
        assert len(labels) == len(self.labels)
        return labels

    def response_windows(self, slice_s: float) -> list[range]:
        """Return for each answer the slices in which a response belongs to its question.

        A window begins with the first slice of the question and ends where the next question
        begins.
        """
        starts = []
        for answer in self.answers:
            question = self.turns[answer.turn]
            starts.append(int(question.start_s / slice_s))
        boundaries = [*starts, len(self.labels)]
        return [range(first, stop) for first, stop in itertools.pairwise(boundaries)]


class Schedule(NamedTuple):
    """Positions of the events of a dialogue."""

    starts: list[int]
    """First sample of each phrase."""
    answers: list[Answer]
    num_samples: int
    """A whole number of slices."""


class Dialogues(Dataset[Dialogue]):
    """Unlimited dialogues.

    Each is a pure function of (seed, split, index), in any process and order.

    Args:
        sources: phrases of each kind of event that is speech at the user's level, corrections
            excepted.
        orders: orders that a correction can follow, and their corrections.
        config: ranges and shares of the events.
        split: part of the names of the dialogues; the phrases decide which voices and sentences
            occur.
        seed: another seed gives other dialogues.
        size: value of `len`. Larger indices are valid too.
        slices: division of time.
        resuming_slices: slices after the end of speech to somebody else in which a response stays
            paused; None: responses do not pause.
        effects: effects on the whole dialogue as one microphone records it; None: there are none.

    Raises:
        ValueError: no answer is long enough for an event that overlaps it.
    """

    def __init__(
        self,
        sources: Mapping[Kind, Phrases],
        orders: Spoken,
        config: DialogueConfig,
        split: Split,
        seed: int,
        size: int,
        slices: Slices,
        resuming_slices: int | None = None,
        effects: EffectsConfig | None = None,
    ) -> None:
        self.sources = sources
        self.orders = orders
        self.config = config
        self.split = split
        self.seed = seed
        self.size = size
        self.slices = slices
        self.resuming_slices = resuming_slices
        self.effects = effects
        self.rate_hz = slices.rate_hz
        self.is_natural = config.timing == "natural"
        # Only a long answer leaves time for an event that begins and ends during it.
        self._min_overlapped_words = math.ceil(config.min_interrupted_answer_s * config.words_per_s)
        self._check_answer_length()

    def _check_answer_length(self) -> None:
        shares = self.config.shares
        overlap_share = (
            shares.interruption + shares.backchannel + shares.stop + self.config.overlap_share
        )
        if self.is_natural:
            overlap_share += natural.BACKCHANNELS_PER_S
        longest = self.sources["question"].longest_answer
        if overlap_share and longest < self._min_overlapped_words:
            raise ValueError(
                "dialogue.min_interrupted_answer_s="
                f"{self.config.min_interrupted_answer_s:g} at "
                f"dialogue.words_per_s={self.config.words_per_s:g} needs an "
                f"answer of {self._min_overlapped_words} words, and the longest has {longest}: "
                "lower min_interrupted_answer_s, or set overlap_share, shares.interruption, "
                "shares.backchannel and shares.stop to 0, with timing=composed"
            )

    def __len__(self) -> int:
        return self.size

    @property
    def has_recordings(self) -> bool:
        """Whether phrases come from a corpus of recordings."""
        return any(isinstance(source, Recorded) for source in self.sources.values())

    def events(self, index: int) -> list[Event]:
        """Return the events of a dialogue without making its audio."""
        return self._draw_events(self._rng(index))

    def _draw_events(self, rng: random.Random) -> list[Event]:
        events = draw_events(rng, self.config)
        if self.is_natural:
            return natural.with_backchannels(events, self.config.min_interrupted_answer_s, rng)
        return events

    def __getitem__(self, index: int) -> Dialogue:
        """Make a dialogue.

        Raises:
            UnusableAudio: one of its recordings cannot be used.
        """
        # The order of these draws defines the dialogue.
        rng = self._rng(index)
        events = self._draw_events(rng)
        # All turns of the user have one voice; `user` selects it.
        user = rng.getrandbits(32)
        phrases: list[Phrase] = []
        for event in events:
            phrases.append(self._draw_phrase(event, rng, user, phrases))
        schedule = self._schedule(events, phrases, rng)
        samples = self._record(events, phrases, schedule, rng)
        turns = []
        for event, phrase, start in zip(events, phrases, schedule.starts, strict=True):
            turns.append(self._turn(event, phrase, start))
        num_slices = schedule.num_samples // self.slices.length
        return Dialogue(
            id=f"dialogue-{self.split}-{self.seed}-{index}",
            samples=samples,
            turns=tuple(turns),
            labels=self.slices.labels(turns, num_slices),
            answers=tuple(schedule.answers),
        )

    def answer_s(self, text: str) -> float:
        """Return the seconds that the model takes to emit an answer."""
        return len(text.split()) / self.config.words_per_s

    def _rng(self, index: int) -> random.Random:
        return random.Random(f"dialogue {self.seed} {self.split} {index}")

    def _draw_phrase(
        self, event: Event, rng: random.Random, user: int, previous: list[Phrase]
    ) -> Phrase:
        if event.kind == "silence":
            num_samples = self._draw_samples(self.config.silence_s, rng)
            return Phrase("", "", "", np.zeros(num_samples, np.float32))
        if event.kind == "noise":
            return self._draw_noise(rng)
        if event.kind == "background_speech":
            return self._draw_background_speech(rng)

        if event.kind == "correction":
            correction = corrections.draw(rng, self.split, previous[-1].answer)
            return self.orders.say(correction, user)

        source = self.orders if event.is_corrected else self.sources[event.kind]
        min_words = self._min_overlapped_words if event.response_is_overlapped else 0
        phrase = source.phrase(rng, user, min_words)
        if event.kind == "paused_question":
            pause_samples = self._draw_pause_samples(rng)
            phrase = insert_pause(phrase, rng, pause_samples, self.rate_hz)
        return phrase

    def _draw_noise(self, rng: random.Random) -> Phrase:
        colour = rng.choice(NOISES)
        num_samples = self._draw_samples(self.config.noise_s, rng)
        sound_rng = _numpy_rng(rng)
        # Babble is made of phrases, the steady noises are generated.
        if colour == "babble":
            voices = [self._draw_background_speech(rng) for _ in range(BABBLE_VOICES)]
            samples = babble(voices, num_samples, sound_rng)
        else:
            samples = noise(colour, num_samples, sound_rng, self.rate_hz)
        return Phrase(colour, "", "", faded(samples, self.rate_hz))

    def _draw_background_speech(self, rng: random.Random) -> Phrase:
        """A phrase of any kind in a voice of its own."""
        source = rng.choice([self.sources["question"], self.sources["talking_to_other"]])
        stranger = rng.getrandbits(32)
        return source.phrase(rng, stranger)

    def _schedule(self, events: list[Event], phrases: list[Phrase], rng: random.Random) -> Schedule:
        """Draw the position of each event in time."""
        starts: list[int] = []
        answers: list[Answer] = []
        # Both in samples: the end of the last event's endpoint slice, and the last response.
        decided = 0
        response = range(0)
        for turn, (event, phrase) in enumerate(zip(events, phrases, strict=True)):
            start = self._draw_start(event, decided, response, rng)
            starts.append(start)
            endpoint = self.slices.endpoint_slice(start + len(phrase.samples))
            decided = (endpoint + 1) * self.slices.length
            if RULES[event.kind].answered:
                # The interrupted response stops when the model decides to answer the new question.
                if event.overlaps_response or decided < response.stop:
                    answers[-1] = dataclasses.replace(answers[-1], end=endpoint)
                response_samples = round(self.answer_s(phrase.answer) * self.rate_hz)
                response = range(decided, decided + response_samples)
                answers.append(Answer(turn, endpoint, None))
                if self.is_natural:
                    response = self._person_response(start, len(phrase.samples), response, rng)
                    answers[-1] = self._spoken_answer(answers[-1], response)
            elif event.overlaps_response and RULES[event.kind].foreground:
                paused_samples = self._paused_samples(start, endpoint)
                response = range(response.start, response.stop + paused_samples)
        end = max(decided, response.stop) + self._draw_samples(self.config.gap_s, rng)
        # Round up to whole slices.
        num_samples = end + -end % self.slices.length
        return Schedule(starts, answers, num_samples)

    def _draw_start(self, event: Event, decided: int, response: range, rng: random.Random) -> int:
        """Draw the first sample of an event.

        Args:
            event: the event.
            decided: end of the endpoint slice of the event before it.
            response: samples of the last response.
            rng: source of the draws.
        """
        if self.is_natural and response and event.kind == "backchannel":
            delay_s = natural.draw_backchannel_start_s(len(response) / self.rate_hz, rng)
            return max(decided, response.start + round(delay_s * self.rate_hz))
        if event.overlaps_response:
            offset = int(rng.uniform(*WITHIN_ANSWER) * len(response))
            return max(decided, response.start + offset)
        if self.is_natural and response and RULES[event.kind].foreground:
            offset = round(natural.draw_offset_s(rng) * self.rate_hz)
            return max(decided, response.stop + offset)
        gap = self._draw_samples(self.config.gap_s, rng)
        return max(decided, response.stop) + gap

    def _person_response(
        self, start: int, num_samples: int, response: range, rng: random.Random
    ) -> range:
        """Samples of a response if a person gave it, who may begin before the turn is over.

        Args:
            start: first sample of the turn.
            num_samples: its length.
            response: samples of the model's response.
            rng: source of the draws.
        """
        end = start + num_samples
        offset = round(natural.draw_offset_s(rng) * self.rate_hz)
        begin = max(start + num_samples // 2, end + offset)
        return range(begin, begin + len(response))

    def _spoken_answer(self, answer: Answer, response: range) -> Answer:
        spoken_s = (response.start / self.rate_hz, response.stop / self.rate_hz)
        return dataclasses.replace(answer, spoken_s=spoken_s)

    def _draw_pause_samples(self, rng: random.Random) -> int:
        """Draw the length of a pause within a question."""
        if self.is_natural:
            return round(natural.draw_pause_s(rng) * self.rate_hz)
        return self._draw_samples(self.config.pause_s, rng)

    def _paused_samples(self, start: int, endpoint: int) -> int:
        """Samples by which speech to somebody else delays the response that it overlaps.

        Args:
            start: first sample of the speech.
            endpoint: its endpoint slice.
        """
        if self.resuming_slices is None:
            return 0
        num_slices = endpoint - self.slices.onset_slice(start) + self.resuming_slices
        return num_slices * self.slices.length

    def _turn(self, event: Event, phrase: Phrase, start: int) -> Turn:
        pause_s = None
        if phrase.pause:
            pause_s = (
                (start + phrase.pause.start) / self.rate_hz,
                (start + phrase.pause.stop) / self.rate_hz,
            )
        return Turn(
            kind=event.kind,
            text=phrase.text,
            answer=phrase.answer if RULES[event.kind].answered else "",
            start_s=start / self.rate_hz,
            end_s=(start + len(phrase.samples)) / self.rate_hz,
            pause_s=pause_s,
            speaker=phrase.speaker,
        )

    def _record(
        self, events: list[Event], phrases: list[Phrase], schedule: Schedule, rng: random.Random
    ) -> np.ndarray:
        """(n,) float32: the dialogue as the user's microphone records it."""
        samples = self._mix(events, phrases, schedule, rng)
        if self.effects is not None:
            samples = apply_effects(samples, _numpy_rng(rng), self.effects, self.rate_hz)
        return samples

    def _mix(
        self, events: list[Event], phrases: list[Phrase], schedule: Schedule, rng: random.Random
    ) -> np.ndarray:
        """(n,) float32: all phrases at their positions and levels, with the noise of a room."""
        user_db = rng.uniform(*self.config.level_db)
        colour = rng.choice(ROOM_NOISES)
        room = noise(colour, schedule.num_samples, _numpy_rng(rng), self.rate_hz)
        room_db = user_db - rng.uniform(*self.config.room_snr_db)
        # (n,) for the whole dialogue: the noise of the room does not stop between events.
        samples = room * _amplitude(room_db)
        for event, phrase, start in zip(events, phrases, schedule.starts, strict=True):
            level_db = user_db + self._draw_relative_db(event.kind, rng)
            end = start + len(phrase.samples)
            samples[start:end] += _amplitude(level_db) * phrase.samples
        # The last draws, so that a dialogue with echo is otherwise the same as without.
        if self.config.echo_db is not None:
            echo_db = user_db + rng.uniform(*self.config.echo_db)
            samples += _amplitude(echo_db) * self._echo(phrases, schedule, rng)
        # Scaled down rather than clipped, which would distort loud overlaps.
        peak = np.abs(samples).max()
        return samples / np.maximum(1, peak)

    def _echo(self, phrases: list[Phrase], schedule: Schedule, rng: random.Random) -> np.ndarray:
        """(n,) float32: the answers as the user's microphone records them."""
        return echo(
            schedule.answers,
            phrases,
            schedule.num_samples,
            self.slices,
            self.config.words_per_s,
            self.split,
            rng,
        )

    def _draw_relative_db(self, kind: Kind, rng: random.Random) -> float:
        """Level of an event relative to the user's voice."""
        if kind == "background_speech":
            return rng.uniform(*self.config.background_speech_db)
        if kind == "noise":
            return -rng.uniform(*self.config.noise_snr_db)
        return 0.0

    def _draw_samples(self, range_s: list[float], rng: random.Random) -> int:
        """Draw a duration; returns its number of samples."""
        return round(rng.uniform(*range_s) * self.rate_hz)


def open_dialogues(
    config: Config,
    split: Split,
    size: int,
    recorded: Corpus | None = None,
    voices: Voices | None = None,
    dialogue_type: type[Dialogues] = Dialogues,
) -> Dialogues:
    """Open the dialogues of a configuration.

    Args:
        config: the resolved configuration.
        split: selects voices and sentences.
        size: value of `len`.
        recorded: corpus of the questions; None: they come from `grammar`. All other phrases are
            synthesised, also orders that are corrected.
        voices: of all synthesised speech; None: those of data.voices.
        dialogue_type: class to open.

    Raises:
        ValueError: slices do not hold whole speech embeddings, the answers are too short, or
            data.voices cannot be used; the message says what to change.
    """
    # Raises the error about slices.
    FrameTiming.of(config.model).encoder_frames("duplex.slice_ms", config.duplex.slice_ms)
    rate_hz = config.features.sample_rate_hz
    if voices is None:
        voices = open_voices(config.data)
    questions: Phrases
    if recorded is None:
        questions = Spoken(grammar.draw, split, rate_hz, _longest_grammar_answer(), voices)
    else:
        questions = Recorded(recorded, rate_hz)
    sources: dict[Kind, Phrases] = {
        "question": questions,
        "paused_question": questions,
        "interruption": questions,
        "talking_to_other": Spoken(other_speech.draw, split, rate_hz, voices=voices),
        "backchannel": Spoken(other_speech.draw_backchannel, split, rate_hz, voices=voices),
        "out_of_grammar": Spoken(out_of_grammar.draw, split, rate_hz, voices=voices),
        "small_talk": Spoken(small_talk.draw, split, rate_hz, voices=voices),
        "stop": Spoken(small_talk.draw_stop, split, rate_hz, voices=voices),
    }
    return dialogue_type(
        sources=sources,
        orders=Spoken(corrections.draw_order, split, rate_hz, voices=voices),
        config=config.dialogue,
        split=split,
        seed=config.seed,
        size=size,
        slices=Slices.of(config),
        resuming_slices=_num_resuming_slices(config.duplex),
        effects=_effects(config.data, split),
    )


def _effects(data: DataConfig, split: Split) -> EffectsConfig | None:
    """Effects on the dialogues of a split; None: there are none."""
    if split == "train":
        return data.augment.effects
    if split == "test" and has_effects(data.test_effects):
        return data.test_effects
    return None


def _num_resuming_slices(duplex: DuplexConfig) -> int | None:
    """Slices to be ignored in which a response stays paused; None: responses do not pause."""
    if duplex.on_onset == "pause":
        # The branch is dropped in the last of `ignored_slices`, which is not paused any more.
        return duplex.ignored_slices - 1
    return None


def _longest_grammar_answer() -> int:
    """Number of words of the longest answer of the default corpus."""
    cores = itertools.chain.from_iterable(grammar.KINDS.values())
    return max(len(core.answer.split()) for core in cores)


def _numpy_rng(rng: random.Random) -> np.random.Generator:
    return np.random.default_rng(rng.getrandbits(64))


def _amplitude(level_db: float) -> np.float32:
    return np.float32(10 ** (level_db / 20))
