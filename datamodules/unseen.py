"""Speech that nothing was trained on, for scores beside that of the test split: voices of other
synthesisers (`data.test_voices`), and people (`data.test_people`).

Only transcripts are scored on it, so that every stage that transcribes has the same scores.
"""

import collections
import dataclasses

from torch.utils.data import DataLoader

from configs.schema import Config
from datamodules.corpora import Corpora, TruncatedCorpus
from datamodules.corpus import Corpus, Utterance
from datamodules.data import SpeechData
from datamodules.sources.corpus_manifest import ManifestCorpus, check_bad_share, open_source
from datamodules.synthetic.speech import SyntheticSpeech
from datamodules.synthetic.test_effects import with_test_effects
from datamodules.synthetic.voices import (
    Family,
    Voices,
    check_installed,
    open_cache,
    parse_families,
)


@dataclasses.dataclass(frozen=True)
class UnseenSpeech:
    """Sets of utterances without answers, and what is to be said about them."""

    voices: dict[str, Corpus]
    """Family -> the test sentences in its voices."""
    people: Corpus | None
    """None: no recorded speech is scored."""
    notes: list[str]
    """Sentences about what is scored."""


def check_unseen(config: Config) -> None:
    """Check that the unseen speech of a configuration can be had, before anything is trained.

    Raises:
        ValueError: a synthesiser is unknown or not installed, or the recordings of people cannot be
            used; the message names the field and the remedy.
    """
    check_installed("data.test_voices", _families(config))
    if config.data.test_people is not None:
        _open_people(config)


def open_unseen(config: Config, corpora: Corpora) -> UnseenSpeech:
    """Open the unseen speech of a configuration.

    Args:
        config: the configuration.
        corpora: its corpora, whose training texts tell which words of people are scored.

    Raises:
        ValueError: as `check_unseen`, or no recording has only words of the training texts.
    """
    check_unseen(config)
    notes = []
    voices = _open_voices(config)
    if voices:
        sizes = [f"{name} ({len(corpus)})" for name, corpus in voices.items()]
        notes.append(f"wer_voices: test sentences by {', '.join(sizes)}")
    people: Corpus | None = None
    if config.data.test_people is not None:
        recorded = _open_people(config)
        known = _with_known_words(recorded, corpora.training_words())
        if not len(known):
            raise ValueError(
                f"data.test_people={config.data.test_people}: no utterance of its test split has "
                "only words of the training texts; name other recordings, or null"
            )
        people = _scored(with_test_effects(known, config), config.data.test_size)
        notes.append(
            f"wer_people: {len(people)} of the {len(recorded)} test utterances of "
            f"{config.data.test_people}; {len(recorded) - len(known)} have words that no training "
            "text has"
        )
    return UnseenSpeech(voices, people, notes)


def _families(config: Config) -> list[Family]:
    return parse_families("data.test_voices", config.data.test_voices)


def _open_voices(config: Config) -> dict[str, Corpus]:
    """The test sentences in each family's voices, `data.test_size` in all; {}: there is none."""
    data = config.data
    families = _families(config)
    total = sum(family.share for family in families)
    corpora: dict[str, Corpus] = {}
    counts: collections.Counter[str] = collections.Counter()
    for family in families:
        name = family.synthesiser.name
        counts[name] += 1
        # Several voice files or commands of one synthesiser are numbered.
        if counts[name] > 1:
            name = f"{name}-{counts[name]}"
        corpus = SyntheticSpeech(
            "test",
            seed=config.seed,
            size=max(1, round(data.test_size * family.share / total)),
            rate_hz=config.features.sample_rate_hz,
            augment=data.augment,
            voices=Voices([family], open_cache(data)),
        )
        corpora[name] = WithoutAnswers(with_test_effects(corpus, config))
    return corpora


def _open_people(config: Config) -> ManifestCorpus:
    """The test split of `data.test_people`."""
    data = config.data
    assert data.test_people is not None
    source = dataclasses.replace(data.source, path=data.test_people)
    try:
        splits, survey = open_source(source, data, config.features.sample_rate_hz)
        check_bad_share(survey, data.max_bad_share)
    except ValueError as error:
        raise ValueError(f"data.test_people: {error}") from None
    if not len(splits["test"]):
        raise ValueError(
            f"data.test_people={data.test_people}: it has no test split; name one in a manifest, or "
            "in data.source.split"
        )
    return splits["test"]


def _with_known_words(corpus: ManifestCorpus, known: set[str]) -> ManifestCorpus:
    """The utterances whose every word is known: the error on others is not one of hearing."""
    entries = [entry for entry in corpus.entries if known.issuperset(entry.text.split())]
    return ManifestCorpus(entries, corpus.rate_hz, corpus.min_s, corpus.max_s)


def _scored(corpus: Corpus, size: int) -> Corpus:
    # The order of a corpus is fair, so its first utterances are a sample.
    if len(corpus) > size:
        corpus = TruncatedCorpus(corpus, size)
    return WithoutAnswers(corpus)


class WithoutAnswers:
    """A corpus whose utterances have no answers, so that all are transcribed. A `Corpus`."""

    def __init__(self, corpus: Corpus):
        self.corpus = corpus
        self.duration_s = corpus.duration_s

    def __len__(self) -> int:
        return len(self.corpus)

    def qa_pair(self, index: int) -> tuple[str, str]:
        """Text and an empty answer, without reading audio."""
        text, _ = self.corpus.qa_pair(index)
        return text, ""

    def __getitem__(self, index: int) -> Utterance:
        """Read an utterance. Raises as the corpus does."""
        return dataclasses.replace(self.corpus[index], answer="")


class UnseenData(SpeechData):
    """A test set of its own.

    Args:
        config: the configuration.
        corpora: its corpora.
        corpus: the utterances to score.
    """

    def __init__(self, config: Config, corpora: Corpora, corpus: Corpus):
        super().__init__(config, corpora)
        self.corpus = corpus

    def test_dataloader(self) -> DataLoader:
        """The utterances of the set, without augmentation."""
        return self._scored(self.corpus)
