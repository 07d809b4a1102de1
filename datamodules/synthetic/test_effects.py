"""Test speech as other microphones, rooms and lines record it (`data.test_effects`)."""

import dataclasses

import numpy as np

from configs.schema import Config, EffectsConfig
from datamodules.corpus import Corpus, Utterance
from datamodules.synthetic.effects import apply_effects


class WithEffects:
    """The utterances of a corpus with effects, always the same ones for an utterance. A `Corpus`.

    Args:
        corpus: the utterances.
        effects: share of each effect.
        seed: another seed draws other effects.
        rate_hz: sample rate of the utterances.
    """

    def __init__(self, corpus: Corpus, effects: EffectsConfig, seed: int, rate_hz: int):
        self.corpus = corpus
        self.effects = effects
        self.seed = seed
        self.rate_hz = rate_hz
        # effects change neither texts nor durations
        self.duration_s = corpus.duration_s
        self.qa_pair = corpus.qa_pair

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> Utterance:
        """Read an utterance. Raises as the corpus does."""
        utterance = self.corpus[index]
        rng = np.random.default_rng([self.seed, index])
        samples = apply_effects(utterance.samples, rng, self.effects, self.rate_hz)
        return dataclasses.replace(utterance, samples=samples)


def with_test_effects(corpus: Corpus, config: Config) -> Corpus:
    """Return a corpus with the effects of `data.test_effects`; the corpus itself without any."""
    effects = config.data.test_effects
    if not has_effects(effects):
        return corpus
    return WithEffects(corpus, effects, config.seed, config.features.sample_rate_hz)


def has_effects(effects: EffectsConfig) -> bool:
    """Whether an effect has a share."""
    return any(dataclasses.asdict(effects).values())
