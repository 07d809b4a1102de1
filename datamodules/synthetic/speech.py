"""The default corpus: the questions and orders of `grammar`, spoken by espeak-ng while training runs.

Utterance `index` is a pure function of (seed, split, index): no file is needed, and any worker makes any utterance,
bit for bit. No sentence and no voice of validation or test occurs in training.
"""

import random
from typing import NamedTuple

import numpy as np

from configs.schema import AugmentConfig
from datamodules.corpus import Utterance
from datamodules.synthetic.augment import condition, draw_speed, resample
from datamodules.synthetic.espeak import Speech, speak
from datamodules.synthetic.grammar import QAPair, Split, draw
from datamodules.synthetic.in_domain_text import InDomainText

ACCENTS = [
    "gmw/en", "gmw/en-029", "gmw/en-GB-scotland", "gmw/en-GB-x-gbclan", "gmw/en-GB-x-gbcwmd", "gmw/en-GB-x-rp",
    "gmw/en-US", "gmw/en-US-nyc",
]  # fmt: skip
_VARIANTS = {
    "train": (
        "Alex Denis Diogo Gene Gene2 Henrique Hugo Jacky Mario Michael Mike Nguyen Reed Storm adam benjamin boris ed "
        "edward edward2 grandpa iven3 iven4 john klatt2 klatt3 klatt4 klatt5 klatt6 m1 m2 m3 m4 m5 m6 m7 m8 max michel "
        "miguel pablo pedro quincy sandro",
        "Annie anika f1 f2 f3 f5 grandma steph steph2 steph3",
    ),
    "valid": ("rob robert", "belinda linda"),
    "test": ("Andy mike2 paul", "Andrea aunty f4"),
}
VARIANTS = {split: [names.split() for names in pitches] for split, pitches in _VARIANTS.items()}
"""Low and high voices of each split, equally often drawn. Whole variants are held out, in every accent, and those that
are alike (rob and robert, aunty and f4) together. Left out: robots, whispers, echoes, and the voices whose words lie
nearer to other words of the common voices than to the same ones."""
RATE_WPM, PITCH, PITCH_RANGE = (130, 210), (25, 75), (30, 70)
"""Drawn uniformly for every utterance."""
HESITANT_SHARE, PAUSE_S = 0.2, (0.4, 2.0)
"""Of the training utterances with a silence between two of their words, and how long it is. Without them a model hears
the first pause in a sentence in its first dialogue."""
LETTER_S = 0.0533
"""Mean seconds a letter (or space) lasts at 175 words a minute, over the training voices."""


class Voice(NamedTuple):
    """Who speaks: the parameters of `speak` after the text."""

    name: str
    rate_wpm: int
    pitch: int
    pitch_range: int


class _Recipe(NamedTuple):
    qa_pair: QAPair
    voice: str
    rate_wpm: int
    pitch: int
    pitch_range: int
    sound_seed: int
    pause_s: float


class SyntheticSpeech:
    """Spoken exchanges without end; see `Corpus`.

    Args:
        split: which sentences and voices. Only in training does an utterance hesitate, or run faster or slower.
        seed: another seed, another corpus.
        size: what `len` answers; indices beyond it are as good.
        rate_hz: of the samples.
        augment: of every split, its speeds of training alone.
        retold: what a share of the utterances say, with that share; None: all are the grammar's.

    Raises:
        ImportError: espeakng-loader is missing (when the first utterance is asked for).
    """

    def __init__(
        self, split: Split, seed: int, size: int, rate_hz: int, augment: AugmentConfig,
        retold: tuple[InDomainText, float] | None = None,
    ) -> None:  # fmt: skip
        self.split, self.seed, self.size, self.rate_hz, self.augment = (
            split,
            seed,
            size,
            rate_hz,
            augment,
        )
        self.retold = retold

    def __len__(self) -> int:
        return self.size

    def qa_pair(self, index: int) -> tuple[str, str]:
        """Text and answer, without speaking."""
        qa_pair = self._recipe(index).qa_pair
        return qa_pair.text, qa_pair.answer

    def duration_s(self, index: int) -> float:
        """Seconds, estimated from letters and pace: nearly always within a quarter."""
        recipe = self._recipe(index)
        return (
            sum(self.augment.pad_s)
            + recipe.pause_s
            + LETTER_S * 175 / recipe.rate_wpm * len(recipe.qa_pair.text)
        )

    def __getitem__(self, index: int) -> Utterance:
        recipe = self._recipe(index)
        speech = speak(
            recipe.qa_pair.text, recipe.voice, recipe.rate_wpm, recipe.pitch, recipe.pitch_range
        )
        rng = np.random.default_rng(recipe.sound_seed)
        speed = draw_speed(rng, self.augment) if self.split == "train" else 1.0
        samples = resample(_hesitating(speech, recipe), speech.sample_rate_hz * speed, self.rate_hz)
        samples = condition(samples, rng, self.augment, self.rate_hz)
        name = f"synthetic-{self.split}-{self.seed}-{index}"
        return Utterance(name, samples, recipe.qa_pair.text, recipe.qa_pair.answer, recipe.voice)

    def _recipe(self, index: int) -> _Recipe:
        rng = random.Random(f"{self.seed} {self.split} {index}")
        qa_pair, voice, sound_seed = (
            self._exchange(rng, index),
            draw_voice(rng, self.split),
            rng.getrandbits(64),
        )
        hesitant = self.split == "train" and rng.random() < HESITANT_SHARE
        return _Recipe(qa_pair, *voice, sound_seed, rng.uniform(*PAUSE_S) if hesitant else 0.0)

    def _exchange(self, rng: random.Random, index: int) -> QAPair:
        if self.retold is not None and rng.random() < self.retold[1]:
            return self.retold[0].qa_pair(rng, index)
        return draw(rng, self.split)


def _hesitating(speech: Speech, recipe: _Recipe) -> np.ndarray:
    """The samples, with the pause of the recipe before one of the words but the first."""
    borders = [round(word.start_s * speech.sample_rate_hz) for word in speech.words[1:]]
    if not recipe.pause_s or not borders:
        return speech.samples
    pause = np.zeros(round(recipe.pause_s * speech.sample_rate_hz), np.float32)
    return np.insert(speech.samples, random.Random(recipe.sound_seed).choice(borders), pause)


def draw_voice(rng: random.Random, split: Split) -> Voice:
    """A voice of this split, at its own pace and pitch."""
    return Voice(
        name=f"{rng.choice(ACCENTS)}+{rng.choice(rng.choice(VARIANTS[split]))}",
        rate_wpm=rng.randint(*RATE_WPM),
        pitch=rng.randint(*PITCH),
        pitch_range=rng.randint(*PITCH_RANGE),
    )
