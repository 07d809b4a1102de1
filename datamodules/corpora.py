"""The corpora of a run: its training stream, and the speech on which it is scored."""

import functools
from collections.abc import Iterator, Mapping, Sequence

from configs.checks import SPLITS
from configs.schema import Config, DataConfig
from datamodules.batching import TrainingStream
from datamodules.corpus import Corpus, Utterance
from datamodules.mixture import Mixture, tempered
from datamodules.sources.corpus_manifest import (
    ManifestCorpus,
    Survey,
    join,
    open_sources,
    sources_of,
)
from datamodules.synthetic.in_domain_text import InDomainText
from datamodules.synthetic.speech import SyntheticSpeech
from datamodules.synthetic.test_effects import with_test_effects
from datamodules.synthetic.voices import check_installed, open_voices

NUM_TOKENIZER_TEXTS = 20_000
"""Synthetic texts from which the byte-level BPE is trained, in addition to the recorded training
transcripts."""

CorporaBySplit = dict[str, dict[str, ManifestCorpus]]
"""Split -> name of the source -> corpus; empty corpora are absent."""


class Corpora:
    """Training stream, validation and test speech of one configuration.

    Args:
        config: the configuration.
        splits: splits that recorded speech must have.

    Attributes:
        surveys: name of the source -> its sizes and skipped files.
        recorded: split -> recorded speech of all sources.
        stream: training utterances, endless.
        valid: utterances for validation.
        test: utterances for the test.

    Raises:
        ValueError: a source is unusable, or too many of its files are, or data.voices cannot be
            used.
    """

    def __init__(self, config: Config, splits: Sequence[str] = SPLITS):
        data = config.data
        rate_hz = config.features.sample_rate_hz
        voices = open_voices(data)
        opened = open_sources(data, rate_hz)
        self.surveys: dict[str, Survey] = {name: survey for name, (_, survey) in opened.items()}
        by_split = _by_split({name: corpora for name, (corpora, _) in opened.items()})
        self.recorded: dict[str, ManifestCorpus] = {}
        for split, corpora in by_split.items():
            if corpora:
                # Scores are computed over the speech of all sources together.
                self.recorded[split] = join(list(corpora.values()))
        if opened:
            _check_splits(splits, self.recorded)
        train = mix(by_split["train"], data, config.seed)
        in_domain = None
        if train is not None and data.in_domain_text_share:
            in_domain = (InDomainText(train), data.in_domain_text_share)
        synthetic = functools.partial(
            SyntheticSpeech,
            seed=config.seed,
            rate_hz=rate_hz,
            augment=data.augment,
            voices=voices,
            shares=data.utterance_shares,
        )
        self.stream = TrainingStream(
            synthetic("train", size=NUM_TOKENIZER_TEXTS, in_domain=in_domain),
            train,
            data.synthetic_share,
            data.synthetic_ramp,
            config.seed,
            data.augment,
            rate_hz,
        )
        # Without recorded speech of a split, the synthesiser provides what is scored.
        valid = self.recorded.get("valid") or synthetic("valid", size=data.valid_size)
        test = self.recorded.get("test") or synthetic("test", size=data.test_size)
        self.valid = _truncated(valid, data.valid_size)
        self.test = with_test_effects(_truncated(test, data.test_size), config)

    def score_whole(self, config: Config) -> None:
        """Score recorded speech whole: all of it where it names no splits, else its test split.

        For speech that is given to be scored alone; data.test_size does not apply.
        """
        recorded = self.recorded
        named = any(survey.names_splits for survey in self.surveys.values())
        if "test" in recorded and named:
            self.test = with_test_effects(recorded["test"], config)
        elif recorded:
            self.test = with_test_effects(join(list(recorded.values())), config)

    def training_texts(self) -> Iterator[str]:
        """Texts and answers of the training stream after its ramp, to train a tokenizer.

        Each begins with a space, as it does after other text.
        """
        for text, answer in self._training_pairs():
            yield f" {text}"
            if answer:
                yield f" {answer}"

    def training_words(self) -> set[str]:
        """Every word of those texts, answers apart."""
        words: set[str] = set()
        for text, _ in self._training_pairs():
            words.update(text.split())
        return words

    def _training_pairs(self) -> Iterator[tuple[str, str]]:
        """Texts and answers of the training stream after its ramp, as many as are used as text."""
        num_recorded = len(self.stream.recorded) if self.stream.recorded else 0
        num_texts = max(NUM_TOKENIZER_TEXTS, 2 * num_recorded)
        # The ramp is skipped, since it holds more synthetic speech than the rest of the stream.
        first = self.stream.ramp
        for position in range(first, first + num_texts):
            yield self.stream.qa_pair(position)


def check_synthesisers(config: Config) -> None:
    """Check that the synthesisers of a configuration can speak, before hours of training.

    Raises:
        ValueError: one cannot, and its speech is needed; the message says how to install it.
    """
    is_recorded = bool(sources_of(config.data)) and not config.data.synthetic_share
    # Dialogues have synthetic sounds beside recorded questions; texts are not spoken.
    needs_speech = config.stage.data == "dialogues" or not is_recorded
    if needs_speech and config.stage.data != "text":
        check_installed("data.voices", open_voices(config.data).families)


def _by_split(sources: Mapping[str, Mapping[str, ManifestCorpus]]) -> CorporaBySplit:
    """Name of the source -> split -> corpus, with the two keys exchanged."""
    by_split: CorporaBySplit = {split: {} for split in SPLITS}
    for name, corpora in sources.items():
        for split in SPLITS:
            if len(corpora[split]):
                by_split[split][name] = corpora[split]
    return by_split


def _check_splits(required: Sequence[str], recorded: Mapping[str, Corpus]) -> None:
    missing = set(required) - recorded.keys()
    if missing:
        raise ValueError(
            "data.path and data.sources: no utterance is left for "
            f"{' and '.join(sorted(missing))}; "
            "give more speech, or a manifest whose rows name their split"
        )


def mix(corpora: Mapping[str, Corpus], data: DataConfig, seed: int) -> Mixture[Corpus] | None:
    """Mix the training speech of all sources in the shares that the configuration gives them.

    Args:
        corpora: name of the source -> its training speech.
        data: the weights of the sources and the temperature.
        seed: selects the order of the utterances.

    Returns:
        The mixture; None: there is no corpus.
    """
    if not corpora:
        return None
    sources = sources_of(data)
    weights = []
    for name, corpus in corpora.items():
        # Without weights in the configuration, the number of utterances is the weight.
        weights.append(sources[name].weight or float(len(corpus)))
    return Mixture(list(corpora.values()), tempered(weights, data.temperature), seed)


class TruncatedCorpus:
    """The first `size` utterances of a corpus. A `Corpus` itself."""

    def __init__(self, corpus: Corpus, size: int):
        self.corpus = corpus
        self.size = size
        # Methods of the corpus: the first indices are the same ones.
        self.duration_s = corpus.duration_s
        self.qa_pair = corpus.qa_pair

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Utterance:
        return self.corpus[index]


def _truncated(corpus: Corpus, size: int) -> Corpus:
    return corpus if len(corpus) <= size else TruncatedCorpus(corpus, size)
