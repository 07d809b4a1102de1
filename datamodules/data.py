"""The corpora of a run, and the loaders the stages train and score on."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from configs.checks import SPLITS
from configs.schema import Config, DataConfig
from datamodules.batching import (
    LANES,
    EndlessBatches,
    FiniteBatches,
    ScoredSet,
    TrainingStream,
    alike,
    at_least,
    collate,
    pack,
    stratified,
)
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
from datamodules.watchdog import WatchedLoader
from duplexmamba.models.timing import FrameTiming

TOKENIZER_TEXTS = 20_000
"""Synthetic texts from which the byte-level BPE is trained, in addition to the recorded training
transcripts."""


class Corpora:
    """Training stream, validation and test speech of one configuration.

    Args:
        splits: those that recorded speech must have.

    Raises:
        ValueError: a source is unusable, or too much of it is.
    """

    def __init__(self, config: Config, splits: Sequence[str] = SPLITS):
        data = config.data
        rate_hz = config.features.sample_rate_hz
        opened = open_sources(data, rate_hz)
        self.surveys: dict[str, Survey] = {name: survey for name, (_, survey) in opened.items()}
        # split -> source -> corpus, without empty ones
        by_split: dict[str, dict[str, ManifestCorpus]] = {split: {} for split in SPLITS}
        for name, (corpora, _) in opened.items():
            for split in SPLITS:
                if len(corpora[split]):
                    by_split[split][name] = corpora[split]
        self.recorded: dict[str, Corpus] = {}
        for split, corpora in by_split.items():
            if corpora:
                self.recorded[split] = join(list(corpora.values()))
        missing = set(splits) - self.recorded.keys()
        if opened and missing:
            raise ValueError(
                "data.path and data.sources: no utterance is left for "
                f"{' and '.join(sorted(missing))}; "
                "give more speech, or a manifest whose rows name their split"
            )
        train = mix(by_split["train"], data, config.seed)
        in_domain = None
        if train is not None and data.in_domain_text_share:
            in_domain = (InDomainText(train), data.in_domain_text_share)
        synthetic = functools.partial(
            SyntheticSpeech,
            seed=config.seed,
            rate_hz=rate_hz,
            augment=data.augment,
        )
        self.stream = TrainingStream(
            synthetic("train", size=TOKENIZER_TEXTS, in_domain=in_domain),
            train,
            data.synthetic_share,
            data.synthetic_ramp,
            config.seed,
            data.augment,
            rate_hz,
        )
        valid = self.recorded.get("valid") or synthetic("valid", size=data.valid_size)
        test = self.recorded.get("test") or synthetic("test", size=data.test_size)
        self.valid = _first(valid, data.valid_size)
        self.test = _first(test, data.test_size)

    def training_texts(self) -> Iterator[str]:
        """Texts and answers of the training stream after its ramp, to train a tokenizer."""
        recorded = len(self.stream.recorded) if self.stream.recorded else 0
        for position in range(
            self.stream.ramp, self.stream.ramp + max(TOKENIZER_TEXTS, 2 * recorded)
        ):
            text, answer = self.stream.qa_pair(position)
            yield f" {text}"
            if answer:
                yield f" {answer}"


def mix(corpora: Mapping[str, Corpus], data: DataConfig, seed: int) -> Mixture | None:
    """The training speech of all sources, each with its share."""
    if not corpora:
        return None
    given = {name: source.weight for name, source in sources_of(data).items()}
    weights = [given[name] or float(len(corpus)) for name, corpus in corpora.items()]
    return Mixture([*corpora.values()], tempered(weights, data.temperature), seed)


class FirstOf:
    """The first `size` utterances of a corpus."""

    def __init__(self, corpus: Corpus, size: int):
        self.corpus, self.size = corpus, size
        self.duration_s, self.qa_pair = corpus.duration_s, corpus.qa_pair

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Utterance:
        return self.corpus[index]


def _first(corpus: Corpus, size: int) -> Corpus:
    return corpus if len(corpus) <= size else FirstOf(corpus, size)


class QAPairs(Dataset[tuple[str, str]]):
    """Text of each utterance and the answer wanted: none, "", where the text is to be
    transcribed."""

    def __init__(self, corpus: Corpus | TrainingStream, answer_share: float, seed: int):
        self.corpus, self.answer_share, self.seed = corpus, answer_share, seed

    def __getitem__(self, index: int) -> tuple[str, str]:
        text, answer = self.corpus.qa_pair(index)
        return text, answer if np.random.default_rng(
            [self.seed, index]
        ).random() < self.answer_share else ""

    def length(self, index: int) -> int:
        """Characters of text and answer, wanted or not: by those of the response, questions and
        texts to transcribe would come in batches of their own, from which much less is learnt."""
        return sum(map(len, self.corpus.qa_pair(index)))


Ahead = Callable[[Any], Any]
"""Work of data workers on each training batch: the part of the model that does not learn, run
beforehand."""


@dataclasses.dataclass(frozen=True)
class Collate:
    """Items to a batch, and what is done with it ahead."""

    items: Callable[[list[Any]], Any]
    ahead: Ahead

    def __call__(self, items: list[Any]) -> Any:
        return self.ahead(self.items(items))


class StageData(L.LightningDataModule):
    """Loaders of one stage. Batch k of a run is the same whenever it is asked for; `start_batch` is
    the first one."""

    ahead: Ahead | None = None

    def __init__(self, config: Config, corpora: Corpora):
        super().__init__()
        self.config, self.corpora, self.start_batch = config, corpora, 0

    def _loader(
        self,
        dataset: Dataset,
        batches: Iterable[list[int]],
        collate_fn: Callable,
        ahead: Ahead | None = None,
    ) -> DataLoader:
        data = self.config.data
        return WatchedLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=Collate(collate_fn, ahead) if ahead else collate_fn,
            num_workers=data.num_workers,
            worker_timeout_s=data.worker_timeout_s,
        )

    def check_ranks(self, ranks: int) -> None:
        """Raises ValueError where there is less to score than there are ranks."""
        for field, size in self.scored().items():
            if size < ranks:
                raise ValueError(
                    f"data.{field}: {size} to score for {ranks} ranks, of which each "
                    "needs one; give them more, or "
                    "lower trainer.devices or trainer.cpu_processes"
                )

    def scored(self) -> dict[str, int]:
        """Setting that limits what is scored -> how many are."""
        return {"valid_size": len(self.corpora.valid), "test_size": len(self.corpora.test)}

    def strata(self, positions: range) -> list[Hashable]:
        """The sort of each position of the training stream: with an answer or without."""
        return [bool(self.corpora.stream.qa_pair(position)[1]) for position in positions]

    def sample(self) -> list[int] | None:
        """Positions that `lora.sample` picks from ten times as many."""
        lora, first = self.config.lora, self.corpora.stream.ramp
        if not lora.enabled or not lora.sample:
            return None
        return [
            first + i
            for i in stratified(self.strata(range(first, first + 10 * lora.sample)), lora.sample)
        ]

    def _endless(self, group: Callable[[Sequence[int]], list[list[int]]]) -> EndlessBatches:
        recorded = self.corpora.stream.recorded
        lanes = LANES if recorded and recorded.is_grouped else 1
        trainer, (rank, world) = self.config.trainer, self._rank()
        shared = world > trainer.devices * trainer.num_nodes
        return EndlessBatches(
            group, self.config.seed, self.start_batch, rank, world, self.sample(), lanes, shared
        )

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


class SpeechData(StageData):
    """Batches of speech."""

    def train_dataloader(self) -> DataLoader:
        stream, batch_s = self.corpora.stream, self.config.data.batch_s

        def group(positions: Sequence[int]) -> list[list[int]]:
            return pack(positions, [stream.duration_s(p) for p in positions], batch_s)

        return self._speech(stream, self._endless(group), self.ahead)

    def val_dataloader(self) -> DataLoader:
        return self._scored(self.corpora.valid)

    def test_dataloader(self) -> DataLoader:
        return self._scored(self.corpora.test)

    def _scored(self, corpus: Corpus) -> DataLoader:
        return self._speech(
            ScoredSet(corpus), FiniteBatches(corpus, self.config.data.batch_s, *self._rank())
        )

    def _speech(
        self, dataset: Dataset, batches: Sampler[list[int]], ahead: Ahead | None = None
    ) -> DataLoader:
        unit = FrameTiming.of(self.config.model).samples_per_token
        return self._loader(dataset, batches, functools.partial(collate, unit_samples=unit), ahead)


class TextData(StageData):
    """Batches of (text, answer), as in `QAPairs`."""

    def train_dataloader(self) -> DataLoader:
        qa_pairs, size = self._qa_pairs(self.corpora.stream), self.config.data.batch_texts

        def group(positions: Sequence[int]) -> list[list[int]]:
            return alike(positions, [qa_pairs.length(p) for p in positions], size)

        return self._loader(qa_pairs, self._endless(group), list)

    def val_dataloader(self) -> DataLoader:
        return self._scored(self.corpora.valid)

    def test_dataloader(self) -> DataLoader:
        return self._scored(self.corpora.test)

    def _scored(self, corpus: Corpus) -> DataLoader:
        size, (rank, world) = self.config.data.batch_texts, self._rank()
        batches = [list(range(i, min(i + size, len(corpus)))) for i in range(0, len(corpus), size)]
        return self._loader(self._qa_pairs(corpus), at_least(world, batches)[rank::world], list)

    def _qa_pairs(self, corpus: Corpus | TrainingStream) -> QAPairs:
        return QAPairs(corpus, self.config.stage.answer_share, self.config.seed)
