"""What is heard in a dialogue: phrases, spoken by espeak-ng or recorded, and noises."""

import bisect
import dataclasses
import random
from collections.abc import Callable
from typing import Protocol

import numpy as np

from datamodules.corpus import Corpus
from datamodules.synthetic.augment import LOWEST_HZ, resample
from datamodules.synthetic.espeak import speak
from datamodules.synthetic.grammar import KINDS, QAPair, Split
from datamodules.synthetic.voices import draw_espeak_voice as draw_voice

ROOMS = ("white", "pink", "hum")
"""What a room sounds like."""
NOISES = (*ROOMS, "babble")
HUM_HZ, HUM_TOP_HZ = (50, 240), 2_000
"""Where a hum begins, and where its overtones end."""
TRIM_DB = 40.0
"""A phrase begins and ends where it is less than this below its loudest 10 ms."""
FADE_S = 0.005
"""Every sound comes and goes within this time, so that no click tells of a cut."""
_CORES = frozenset(core.text for cores in KINDS.values() for core in cores)


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A sound with no silence around it."""

    text: str
    answer: str
    speaker: str
    samples: np.ndarray
    """(n,) float32 of root mean square 1 (but for silence)."""
    cuts: tuple[int, ...] = ()
    """Samples before which it can be broken off in mid-phrase."""
    pause: range | None = None
    """Samples of silence within, where it was."""


class Phrases(Protocol):
    """Where phrases come from. A phrase is a pure function of the state of `rng` and the other arguments."""

    longest_answer: int
    """Words of the longest answer."""

    def phrase(self, rng: random.Random, person: int, min_words: int = 0) -> Phrase:
        """A phrase, with an answer of at least `min_words` words.

        Args:
            person: any number; the same one has the same voice, as far as there is a choice.
        """
        ...


class Spoken:
    """The sentences of a grammar in the voices of `synthetic`: no sentence and no voice of test occurs in training.

    Args:
        draw: a sentence of a split.
        longest_answer: words of the longest answer that can be drawn.
    """

    def __init__(
        self,
        draw: Callable[[random.Random, Split], QAPair],
        split: Split,
        rate_hz: int,
        longest_answer: int = 0,
    ) -> None:
        self.draw, self.split, self.rate_hz, self.longest_answer = (
            draw,
            split,
            rate_hz,
            longest_answer,
        )

    def phrase(self, rng: random.Random, person: int, min_words: int = 0) -> Phrase:
        qa_pair = self.draw(rng, self.split)
        while len(qa_pair.answer.split()) < min_words:
            qa_pair = self.draw(rng, self.split)
        text, voice = qa_pair.text, draw_voice(random.Random(person), self.split)
        speech = speak(text, *voice)
        start, stop = heard(speech.samples, speech.sample_rate_hz)
        samples = resample(speech.samples[start:stop], speech.sample_rate_hz, self.rate_hz)
        borders_s = [word.start_s for word in speech.words[1:] if unfinished(text[: word.position])]
        cuts = tuple(
            round((border_s - start / speech.sample_rate_hz) * self.rate_hz)
            for border_s in borders_s
        )
        return Phrase(text, qa_pair.answer, voice.name, faded(scaled(samples), self.rate_hz), cuts)


class Recorded:
    """The utterances of a corpus that have an answer, without the silence around them; broken off, for want of word
    times, in the quietest place near the middle. Who speaks is left to chance.

    Raises:
        ValueError: none has an answer.
    """

    def __init__(self, corpus: Corpus, rate_hz: int) -> None:
        self.corpus, self.rate_hz = corpus, rate_hz
        words = [len(corpus.qa_pair(i)[1].split()) for i in range(len(corpus))]
        self._shortest_first, self._words = (
            sorted(range(len(words)), key=words.__getitem__),
            sorted(words),
        )
        self.longest_answer = max(words, default=0)
        if not self.longest_answer:
            raise ValueError(
                "dialogues need questions with answers, and no utterance has one: give some an `answer`"
            )

    def phrase(self, rng: random.Random, person: int, min_words: int = 0) -> Phrase:
        """Raises UnusableAudio."""
        first = bisect.bisect_left(self._words, max(1, min_words))
        utterance = self.corpus[self._shortest_first[rng.randrange(first, len(self._words))]]
        samples = utterance.samples[slice(*heard(utterance.samples, self.rate_hz))]
        cut = quietest_near_middle(samples, self.rate_hz)
        return Phrase(
            utterance.text,
            utterance.answer,
            utterance.speaker,
            faded(scaled(samples), self.rate_hz),
            (cut,),
        )


def unfinished(beginning: str) -> bool:
    """Whether the beginning of a question of `grammar` asks for nothing yet."""
    words = beginning.split()
    return not any(" ".join(words[i:j]) in _CORES for j in range(len(words) + 1) for i in range(j))


def heard(samples: np.ndarray, rate_hz: int) -> tuple[int, int]:
    """Where the first 10 ms that are heard begin, and the last ones end, in (n,) samples."""
    frame = rate_hz // 100
    levels = _levels(samples, frame)
    [loud] = np.nonzero(levels > levels.max() * 10 ** (-TRIM_DB / 20))
    return int(loud[0]) * frame, min(int(loud[-1] + 1) * frame, len(samples))


def quietest_near_middle(samples: np.ndarray, rate_hz: int) -> int:
    """The middle of the quietest 50 ms in the middle third of (n,) samples."""
    frame = rate_hz // 20
    first = len(samples) // 3
    return first + int(_levels(samples[first : 2 * first], frame).argmin()) * frame + frame // 2


def _levels(samples: np.ndarray, frame: int) -> np.ndarray:
    """Root mean square of each frame, the last one perhaps shorter."""
    starts = np.arange(0, len(samples), frame)
    sizes = np.minimum(frame, len(samples) - starts)
    return np.sqrt(np.add.reduceat(np.square(samples, dtype=np.float64), starts) / sizes)


def scaled(samples: np.ndarray) -> np.ndarray:
    """(n,) samples of root mean square 1."""
    return samples / np.sqrt(np.mean(np.square(samples)))


def faded(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """(n,) samples that come and go without a click."""
    ramp = np.minimum(np.arange(len(samples), dtype=np.float32) / np.float32(FADE_S * rate_hz), 1)
    return samples * np.minimum(ramp, ramp[::-1])


def broken_off(phrase: Phrase, rng: random.Random, pause: int, rate_hz: int) -> Phrase:
    """The phrase with a pause of so many samples at one of its cuts."""
    cut = rng.choice(phrase.cuts)
    parts = [faded(part, rate_hz) for part in (phrase.samples[:cut], phrase.samples[cut:])]
    samples = np.concatenate([parts[0], np.zeros(pause, np.float32), parts[1]])
    return dataclasses.replace(phrase, samples=samples, pause=range(cut, cut + pause))


def noise(colour: str, size: int, rng: np.random.Generator, rate_hz: int) -> np.ndarray:
    """(size,) float32 of root mean square 1: white, pink, or the hum of a machine over some hiss."""
    whole = -(-size // 4096) * 4096  # Fourier transforms of other sizes can be many times slower
    bins_hz = np.arange(whole // 2 + 1, dtype=np.float32) * np.float32(rate_hz / whole)
    spectrum = rng.standard_normal(2 * len(bins_hz), np.float32).view(np.complex64)
    if colour == "pink":
        spectrum *= np.maximum(bins_hz, LOWEST_HZ) ** np.float32(-0.5)
    elif colour == "hum":
        pitch_hz = rng.uniform(*HUM_HZ)
        overtones = np.arange(1, int(HUM_TOP_HZ / pitch_hz) + 1)
        spectrum[np.round(overtones * (pitch_hz * whole / rate_hz)).astype(int)] *= (
            10 * np.sqrt(whole) / overtones
        )
    return scaled(np.fft.irfft(spectrum)[:size].astype(np.float32))


def babble(phrases: list[Phrase], size: int, rng: np.random.Generator) -> np.ndarray:
    """(size,) float32 of root mean square 1: all phrases at once, each over and over from anywhere in it."""
    turned = [np.roll(phrase.samples, rng.integers(len(phrase.samples))) for phrase in phrases]
    return scaled(np.sum([np.resize(samples, size) for samples in turned], axis=0))
