"""Lightning DataModules: the loaders that the stages train and score on."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from configs.schema import Config
from datamodules.batching import (
    LANES,
    EndlessBatches,
    FiniteBatches,
    ScoredSet,
    TrainingStream,
    batch_by_length,
    collate,
    pack,
    split_to_count,
    stratified,
)
from datamodules.corpora import Corpora
from datamodules.corpus import Corpus
from datamodules.sources.corpus_manifest import Survey
from datamodules.watchdog import WatchedLoader
from duplexmamba.models.timing import FrameTiming

SAMPLE_OVERSAMPLING = 10
"""Positions of the stream among which one is selected for `lora.sample`."""


class QAPairs(Dataset[tuple[str, str]]):
    """Pairs of text and answer, without audio.

    The answer is the empty string where the text is to be transcribed.

    Args:
        corpus: source of the texts.
        answer_share: share of the texts that are to be answered.
        seed: selects these.
    """

    def __init__(self, corpus: Corpus | TrainingStream, answer_share: float, seed: int):
        self.corpus = corpus
        self.answer_share = answer_share
        self.seed = seed

    def __getitem__(self, index: int) -> tuple[str, str]:
        text, answer = self.corpus.qa_pair(index)
        # Drawn from the index alone, so that every epoch and process agrees.
        is_question = np.random.default_rng([self.seed, index]).random() < self.answer_share
        return text, answer if is_question else ""

    def length(self, index: int) -> int:
        """Characters of text and answer, whether or not the answer is used."""
        # By the length of the response alone, questions and texts to transcribe would form batches
        # of their own, from which much less is learnt.
        text, answer = self.corpus.qa_pair(index)
        return len(text) + len(answer)


AddFeatures = Callable[[Dataset], Dataset]
"""Function that wraps a data set of utterances or dialogues so that its items have the features of a
pretrained encoder."""

Precompute = Callable[[Any], Any]
"""Function that a data worker applies to each training batch, such as the frozen part of the
model."""


def _unchanged(dataset: Dataset) -> Dataset:
    """The data set itself: there is no pretrained encoder."""
    return dataset


@dataclasses.dataclass(frozen=True)
class PrecomputingCollate:
    """Collation of items to a batch, followed by a precomputation on the batch."""

    collate: Callable[[list[Any]], Any]
    precompute: Precompute

    def __call__(self, items: list[Any]) -> Any:
        return self.precompute(self.collate(items))


class StageData(L.LightningDataModule):
    """Loaders of one stage.

    Batch k of a run is a pure function of the configuration and k. `start_batch` is the first batch
    that the training loader yields, which is above 0 when a run resumes.
    """

    precompute: Precompute | None = None
    """Applied by the data workers to training batches."""
    add_features: AddFeatures = staticmethod(_unchanged)
    """Applied to the data sets that are trained on."""
    add_scored_features: AddFeatures = staticmethod(_unchanged)
    """Applied to the utterances for validation and test."""

    def __init__(self, config: Config, corpora: Corpora):
        super().__init__()
        self.config = config
        self.corpora = corpora
        self.start_batch = 0  # set by the run when it resumes

    def _loader(
        self,
        dataset: Dataset,
        batches: Iterable[list[int]],
        collate_fn: Callable,
        precompute: Precompute | None = None,
    ) -> DataLoader:
        data = self.config.data
        if precompute is not None:
            collate_fn = PrecomputingCollate(collate_fn, precompute)
        return WatchedLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate_fn,
            num_workers=data.num_workers,
            worker_timeout_s=data.worker_timeout_s,
        )

    @property
    def surveys(self) -> dict[str, Survey]:
        """Name -> sizes and skipped files of what this stage reads beside the corpora."""
        return {}

    def check_ranks(self, ranks: int) -> None:
        """Check that every rank has something to score.

        Raises:
            ValueError: there are fewer utterances or dialogues to score than ranks.
        """
        for field, size in self.scored().items():
            if size < ranks:
                raise ValueError(
                    f"data.{field}: {size} to score for {ranks} ranks, of which each "
                    "needs one; give them more, or "
                    "lower trainer.devices or trainer.cpu_processes"
                )

    def scored(self) -> dict[str, int]:
        """Return the settings that limit what is scored, with the number that is scored."""
        return {"valid_size": len(self.corpora.valid), "test_size": len(self.corpora.test)}

    def num_distinct(self) -> int:
        """Number of different training items; 0: no limit."""
        return self.config.data.train_size

    def strata(self, positions: range) -> list[Hashable]:
        """Return whether each position of the training stream has an answer."""
        return [bool(self.corpora.stream.qa_pair(position)[1]) for position in positions]

    def sample(self) -> list[int] | None:
        """Return the positions of the training stream that are repeated; None: all positions.

        `lora.sample` is a stratified sample of ten times as many, data.train_size and
        data.train_dialogues are the first ones after the ramp.
        """
        lora = self.config.lora
        first = self.corpora.stream.ramp
        if not lora.enabled or not lora.sample:
            num_distinct = self.num_distinct()
            return list(range(first, first + num_distinct)) or None
        candidates = range(first, first + SAMPLE_OVERSAMPLING * lora.sample)
        indices = stratified(self.strata(candidates), lora.sample)
        return [first + index for index in indices]

    def _endless(self, group: Callable[[Sequence[int]], list[list[int]]]) -> EndlessBatches:
        recorded = self.corpora.stream.recorded
        is_grouped = recorded is not None and recorded.is_grouped
        trainer = self.config.trainer
        rank, world = self._rank()
        # More ranks than devices (`trainer.cpu_processes`): the ranks of one device split each batch,
        # so that the batch size does not depend on their number.
        return EndlessBatches(
            group,
            self.config.seed,
            start=self.start_batch,
            rank=rank,
            world=world,
            positions=self.sample(),
            lanes=LANES if is_grouped else 1,
            shared=world > trainer.devices * trainer.num_nodes,
        )

    def _rank(self) -> tuple[int, int]:
        """Rank of this process, and number of processes."""
        if self.trainer:
            return self.trainer.global_rank, self.trainer.world_size
        return 0, 1


class SpeechData(StageData):
    """Batches of speech, as `SpeechBatch`."""

    def train_dataloader(self) -> DataLoader:
        """Endless batches of at most `data.batch_s` seconds each."""
        stream = self.corpora.stream
        batch_s = self.config.data.batch_s

        def group(positions: Sequence[int]) -> list[list[int]]:
            durations_s = [stream.duration_s(position) for position in positions]
            return pack(positions, durations_s, batch_s)

        dataset = self.add_features(stream)
        return self._speech(dataset, self._endless(group), self.precompute)

    def val_dataloader(self) -> DataLoader:
        """The validation utterances, without augmentation."""
        return self._scored(self.corpora.valid)

    def test_dataloader(self) -> DataLoader:
        """The test utterances, without augmentation."""
        return self._scored(self.corpora.test)

    def _scored(self, corpus: Corpus) -> DataLoader:
        batches = FiniteBatches(corpus, self.config.data.batch_s, *self._rank())
        return self._speech(self.add_scored_features(ScoredSet(corpus)), batches)

    def _speech(
        self, dataset: Dataset, batches: Sampler[list[int]], precompute: Precompute | None = None
    ) -> DataLoader:
        # Utterances are padded to whole tokens of the language model.
        unit_samples = FrameTiming.of(self.config.model).samples_per_token
        collate_fn = functools.partial(collate, unit_samples=unit_samples)
        return self._loader(dataset, batches, collate_fn, precompute)


class TextData(StageData):
    """Batches of (text, answer), as in `QAPairs`."""

    def train_dataloader(self) -> DataLoader:
        """Endless batches of `data.batch_texts` pairs of similar length."""
        qa_pairs = self._qa_pairs(self.corpora.stream)
        batch_size = self.config.data.batch_texts

        def group(positions: Sequence[int]) -> list[list[int]]:
            lengths = [qa_pairs.length(position) for position in positions]
            return batch_by_length(positions, lengths, batch_size)

        return self._loader(qa_pairs, self._endless(group), list)

    def val_dataloader(self) -> DataLoader:
        """The texts of the validation utterances."""
        return self._scored(self.corpora.valid)

    def test_dataloader(self) -> DataLoader:
        """The texts of the test utterances."""
        return self._scored(self.corpora.test)

    def _scored(self, corpus: Corpus) -> DataLoader:
        rank, world = self._rank()
        batch_size = self.config.data.batch_texts
        batches = []
        for first in range(0, len(corpus), batch_size):
            last = min(first + batch_size, len(corpus))
            batches.append(list(range(first, last)))
        # A rank without a batch would block the others.
        own_batches = split_to_count(world, batches)[rank::world]
        return self._loader(self._qa_pairs(corpus), own_batches, list)

    def _qa_pairs(self, corpus: Corpus | TrainingStream) -> QAPairs:
        return QAPairs(corpus, self.config.stage.answer_share, self.config.seed)
