"""Sounds of a dialogue: phrases, synthetic or recorded, and noises."""

import bisect
import dataclasses
import random
from collections.abc import Callable
from typing import Protocol

import numpy as np

from datamodules.corpus import Corpus
from datamodules.synthetic.augment import LOWEST_HZ, resample, white_spectrum
from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.grammar import QAPair, Split, contains_core
from datamodules.synthetic.voices import DEFAULT_VOICES, Voices

ROOM_NOISES = ("white", "pink", "hum")
"""Kinds of steady noise of a room."""
NOISES = (*ROOM_NOISES, "babble")
"""Kinds of the event noise."""
HUM_HZ = (50, 240)
"""Lowest and highest fundamental frequency of a hum."""
HUM_TOP_HZ = 2_000
"""Highest frequency of its overtones."""
TRIM_DB = 40.0
"""Sound that is this much below the loudest 10 ms counts as silence at both ends of a phrase."""
FADE_S = 0.005
"""Duration of the fades at both ends of every sound, so that no click reveals a cut."""


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A sound without silence around it."""

    text: str
    answer: str
    speaker: str
    samples: np.ndarray
    """(n,) float32 with a root mean square of 1, except for silence."""
    pause_positions: tuple[int, ...] = ()
    """Sample indices at which a pause can be inserted before the phrase is complete."""
    pause: range | None = None
    """Sample indices of the inserted pause."""


class Phrases(Protocol):
    """A source of phrases.

    A phrase is a pure function of the state of `rng` and of the other arguments.
    """

    longest_answer: int
    """Number of words of the longest answer."""

    def phrase(self, rng: random.Random, person: int, min_words: int = 0) -> Phrase:
        """Draw a phrase.

        Args:
            rng: source of every random decision except for the voice.
            person: any number; equal numbers get the same voice if there is a choice of voices.
            min_words: least number of words of its answer.
        """
        ...


class Spoken:
    """Synthesised sentences of a grammar; no sentence and no voice of test occurs in training.

    Args:
        draw: draws a sentence of a split.
        split: selects sentences and voices.
        rate_hz: sample rate of the phrases.
        longest_answer: number of words of the longest answer that can be drawn.
        voices: of which synthesisers, in which shares.
    """

    def __init__(
        self,
        draw: Callable[[random.Random, Split], QAPair],
        split: Split,
        rate_hz: int,
        longest_answer: int = 0,
        voices: Voices = DEFAULT_VOICES,
    ) -> None:
        self.draw = draw
        self.split = split
        self.rate_hz = rate_hz
        self.longest_answer = longest_answer
        self.voices = voices

    def phrase(self, rng: random.Random, person: int, min_words: int = 0) -> Phrase:
        """Draw a sentence and synthesise it in the voice of `person`; see `Phrases`."""
        # Rejection sampling keeps the distribution of the sentences that are long enough.
        qa_pair = self.draw(rng, self.split)
        while len(qa_pair.answer.split()) < min_words:
            qa_pair = self.draw(rng, self.split)
        return self.say(qa_pair, person)

    def say(self, qa_pair: QAPair, person: int) -> Phrase:
        """Synthesise a sentence in the voice of `person`."""
        voice = self.voices.draw(random.Random(person), self.split)
        speech = self.voices.speak(qa_pair.text, voice)
        # The labels of a dialogue need the exact time at which speech starts and ends.
        start, stop = audible_span(speech.samples, speech.sample_rate_hz)
        samples = resample(speech.samples[start:stop], speech.sample_rate_hz, self.rate_hz)
        return Phrase(
            text=qa_pair.text,
            answer=qa_pair.answer,
            speaker=voice.name,
            samples=faded(scaled(samples), self.rate_hz),
            pause_positions=self._pause_positions(qa_pair.text, speech, start),
        )

    def _pause_positions(self, text: str, speech: Speech, start: int) -> tuple[int, ...]:
        """Starts of the words before which the sentence is still incomplete.

        Args:
            text: the sentence.
            speech: its synthesis.
            start: first sample of `speech` that belongs to the phrase.
        """
        positions = []
        for word in speech.words[1:]:
            if unfinished(text[: word.position]):
                offset_s = word.start_s - start / speech.sample_rate_hz
                positions.append(round(offset_s * self.rate_hz))
        return tuple(positions)


class Recorded:
    """Utterances of a corpus that have an answer, without the silence around them.

    Recordings have no word times, so a pause can be inserted at the quietest position near the
    middle. The speaker is random.

    Args:
        corpus: recorded utterances.
        rate_hz: their sample rate.

    Raises:
        ValueError: no utterance has an answer.
    """

    def __init__(self, corpus: Corpus, rate_hz: int) -> None:
        self.corpus = corpus
        self.rate_hz = rate_hz
        num_words = [len(corpus.qa_pair(i)[1].split()) for i in range(len(corpus))]
        # Both sorted by answer length, so that a bisection finds all answers that are long enough.
        self._indices = sorted(range(len(num_words)), key=num_words.__getitem__)
        self._num_words = sorted(num_words)
        self.longest_answer = max(num_words, default=0)
        if not self.longest_answer:
            raise ValueError(
                "dialogues need questions with answers, and no utterance has one: "
                "give some an `answer`"
            )

    def phrase(self, rng: random.Random, person: int, min_words: int = 0) -> Phrase:
        """Draw an utterance; see `Phrases`.

        Raises:
            UnusableAudio: its recording cannot be used.
        """
        # Every answer from `first` on has enough words, and at least one.
        first = bisect.bisect_left(self._num_words, max(1, min_words))
        rank = rng.randrange(first, len(self._num_words))
        utterance = self.corpus[self._indices[rank]]
        start, stop = audible_span(utterance.samples, self.rate_hz)
        samples = utterance.samples[start:stop]
        return Phrase(
            text=utterance.text,
            answer=utterance.answer,
            speaker=utterance.speaker,
            samples=faded(scaled(samples), self.rate_hz),
            pause_positions=(quietest_near_middle(samples, self.rate_hz),),
        )


def unfinished(beginning: str) -> bool:
    """Return whether the beginning of a sentence of `grammar` contains no complete core yet."""
    return not contains_core(beginning)


def audible_span(samples: np.ndarray, rate_hz: int) -> tuple[int, int]:
    """Return begin and end of the audible part of (n,) samples, in steps of 10 ms."""
    frame = rate_hz // 100
    levels = _frame_levels(samples, frame)
    threshold = levels.max() * 10 ** (-TRIM_DB / 20)
    [audible] = np.nonzero(levels > threshold)
    begin = int(audible[0]) * frame
    end = int(audible[-1] + 1) * frame
    return begin, min(end, len(samples))


def quietest_near_middle(samples: np.ndarray, rate_hz: int) -> int:
    """Return the centre of the quietest 50 ms in the middle third of (n,) samples."""
    frame = rate_hz // 20
    # A pause near an end would hardly interrupt the sentence.
    third = len(samples) // 3
    levels = _frame_levels(samples[third : 2 * third], frame)
    quietest = int(levels.argmin())
    return third + quietest * frame + frame // 2


def _frame_levels(samples: np.ndarray, frame: int) -> np.ndarray:
    """Root mean square of each frame; the last one can be shorter."""
    starts = np.arange(0, len(samples), frame)
    sizes = np.minimum(frame, len(samples) - starts)
    # (frames,) in float64, since float32 sums of many squares are inexact.
    energies = np.add.reduceat(np.square(samples, dtype=np.float64), starts)
    return np.sqrt(energies / sizes)


def scaled(samples: np.ndarray) -> np.ndarray:
    """Scale (n,) samples to a root mean square of 1."""
    rms = np.sqrt(np.mean(np.square(samples)))
    return samples / rms


def faded(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Fade (n,) samples in and out, to avoid clicks."""
    fade_samples = np.float32(FADE_S * rate_hz)
    ramp = np.minimum(np.arange(len(samples), dtype=np.float32) / fade_samples, 1)
    return samples * np.minimum(ramp, ramp[::-1])


def insert_pause(phrase: Phrase, rng: random.Random, pause_samples: int, rate_hz: int) -> Phrase:
    """Return the phrase with silence inserted at one of its pause positions."""
    position = rng.choice(phrase.pause_positions)
    # Both parts are faded, so that the insertion does not click.
    before = faded(phrase.samples[:position], rate_hz)
    after = faded(phrase.samples[position:], rate_hz)
    silence = np.zeros(pause_samples, np.float32)
    samples = np.concatenate([before, silence, after])
    pause = range(position, position + pause_samples)
    return dataclasses.replace(phrase, samples=samples, pause=pause)


def noise(colour: str, size: int, rng: np.random.Generator, rate_hz: int) -> np.ndarray:
    """Generate steady noise.

    Args:
        colour: "white", "pink", or "hum" (of a machine, with some white noise).
        size: number of samples.
        rng: source of every random decision.
        rate_hz: sample rate.

    Returns:
        (size,) float32 with a root mean square of 1.
    """
    spectrum, bins_hz, fft_size = white_spectrum(size, rng, rate_hz)
    if colour == "pink":
        # Pink noise has a power of 1 / frequency, thus an amplitude of 1 / sqrt(frequency).
        spectrum *= np.maximum(bins_hz, LOWEST_HZ) ** np.float32(-0.5)
    elif colour == "hum":
        pitch_hz = rng.uniform(*HUM_HZ)
        overtones = np.arange(1, int(HUM_TOP_HZ / pitch_hz) + 1)
        bins = np.round(overtones * (pitch_hz * fft_size / rate_hz)).astype(int)
        spectrum[bins] *= 10 * np.sqrt(fft_size) / overtones
    samples = np.fft.irfft(spectrum)[:size]
    return scaled(samples.astype(np.float32))


def babble(phrases: list[Phrase], size: int, rng: np.random.Generator) -> np.ndarray:
    """Mix phrases that all sound at once, each repeated from a random position in it.

    Returns:
        (size,) float32 with a root mean square of 1.
    """
    voices = []
    for phrase in phrases:
        shift = rng.integers(len(phrase.samples))
        # (size,) per voice: the phrase repeats without a gap.
        rotated = np.roll(phrase.samples, shift)
        voices.append(np.resize(rotated, size))
    return scaled(np.sum(voices, axis=0))
