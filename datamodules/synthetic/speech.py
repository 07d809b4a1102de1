"""The default corpus: questions and orders of `grammar`, synthesised while training runs.

Utterance `index` is a pure function of (seed, split, index): no file is needed, and every worker
process makes bit-identical utterances. No sentence and no voice of validation or test occurs in
training.
"""

import random
from typing import NamedTuple

import numpy as np

from configs.schema import AugmentConfig, UtteranceSharesConfig
from datamodules.corpus import Utterance
from datamodules.synthetic.augment import condition, draw_speed, resample
from datamodules.synthetic.effects import apply_effects
from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.grammar import QAPair, Split
from datamodules.synthetic.in_domain_text import InDomainText
from datamodules.synthetic.single_utterances import draw
from datamodules.synthetic.synthesiser import Voice
from datamodules.synthetic.voices import DEFAULT_VOICES, Voices

HESITANT_SHARE = 0.2
"""Share of the training utterances with a pause between two words.

Without them a model meets its first pause within a sentence in its first dialogue.
"""
PAUSE_S = (0.4, 2.0)
"""Shortest and longest duration of such a pause, drawn uniformly."""

GRAMMAR_ALONE = UtteranceSharesConfig(
    out_of_grammar=0.0, small_talk=0.0, corrections=0.0, isolated_words=0.0
)
"""All training sentences come from the grammar."""


class _Recipe(NamedTuple):
    """Everything that determines an utterance."""

    qa_pair: QAPair
    voice: Voice
    sound_seed: int
    """Seed of the augmentation and of the position of the pause."""
    pause_s: float
    """0: no pause."""


class SyntheticSpeech:
    """Unlimited synthetic utterances of questions and orders with answers; implements `Corpus`.

    Args:
        split: selects sentences and voices. Hesitation and speed changes occur in train only.
        seed: another seed gives another corpus.
        size: value of `len`. Larger indices are valid too.
        rate_hz: sample rate of the utterances.
        augment: augmentation of all splits; its speeds and effects apply to train only.
        in_domain: text of the recorded corpus with the share of utterances that use it; None: all
            sentences come from the grammar.
        voices: of which synthesisers, in which shares.
        shares: training sentences beside those of the grammar.

    Raises:
        ImportError: espeakng-loader is missing (raised by the first access to an utterance; other
            synthesisers raise other errors).
    """

    def __init__(
        self,
        split: Split,
        seed: int,
        size: int,
        rate_hz: int,
        augment: AugmentConfig,
        in_domain: tuple[InDomainText, float] | None = None,
        voices: Voices = DEFAULT_VOICES,
        shares: UtteranceSharesConfig = GRAMMAR_ALONE,
    ) -> None:
        self.split = split
        self.seed = seed
        self.size = size
        self.rate_hz = rate_hz
        self.augment = augment
        self.in_domain = in_domain
        self.voices = voices
        self.shares = shares

    def __len__(self) -> int:
        return self.size

    def qa_pair(self, index: int) -> tuple[str, str]:
        """Return text and answer without synthesising speech."""
        qa_pair = self._recipe(index).qa_pair
        return qa_pair.text, qa_pair.answer

    def duration_s(self, index: int) -> float:
        """Estimate the duration from letters and rate: nearly always within a quarter."""
        recipe = self._recipe(index)
        speech_s = recipe.voice.letter_s * len(recipe.qa_pair.text)
        return sum(self.augment.pad_s) + recipe.pause_s + speech_s

    def __getitem__(self, index: int) -> Utterance:
        recipe = self._recipe(index)
        text, answer, _ = recipe.qa_pair
        speech = self.voices.speak(text, recipe.voice)
        rng = np.random.default_rng(recipe.sound_seed)
        # Evaluation uses the natural speed of the voices.
        speed = draw_speed(rng, self.augment) if self.split == "train" else 1.0
        samples = _insert_pause(speech, recipe)
        samples = resample(samples, speech.sample_rate_hz * speed, self.rate_hz)
        samples = condition(samples, rng, self.augment, self.rate_hz)
        if self.split == "train":
            samples = apply_effects(samples, rng, self.augment.effects, self.rate_hz)
        utterance_id = f"synthetic-{self.split}-{self.seed}-{index}"
        return Utterance(utterance_id, samples, text, answer, recipe.voice.name)

    def _recipe(self, index: int) -> _Recipe:
        # The order of these draws defines the corpus.
        rng = random.Random(f"{self.seed} {self.split} {index}")
        qa_pair = self._draw_qa_pair(rng, index)
        voice = self.voices.draw(rng, self.split)
        sound_seed = rng.getrandbits(64)
        pause_s = 0.0
        if self.split == "train" and rng.random() < HESITANT_SHARE:
            pause_s = rng.uniform(*PAUSE_S)
        return _Recipe(qa_pair, voice, sound_seed, pause_s)

    def _draw_qa_pair(self, rng: random.Random, index: int) -> QAPair:
        if self.in_domain is not None:
            in_domain_text, share = self.in_domain
            if rng.random() < share:
                return in_domain_text.qa_pair(rng, index)
        return draw(rng, self.split, self.shares)


def _insert_pause(speech: Speech, recipe: _Recipe) -> np.ndarray:
    """The samples, with the pause of the recipe inserted before any word except the first."""
    word_starts = [round(word.start_s * speech.sample_rate_hz) for word in speech.words[1:]]
    if not recipe.pause_s or not word_starts:
        return speech.samples
    pause = np.zeros(round(recipe.pause_s * speech.sample_rate_hz), np.float32)
    # A generator of its own: the pause must not shift the draws of the augmentation.
    position = random.Random(recipe.sound_seed).choice(word_starts)
    return np.insert(speech.samples, position, pause)
