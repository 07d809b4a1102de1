"""Batches of dialogues, with extra single utterances."""

import dataclasses
import functools
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.batching import (
    SpeechBatch,
    batch_by_length,
    collate,
    pad_features,
    pad_signals,
    split_to_count,
)
from datamodules.corpus import Corpus, UnusableAudio, Utterance
from datamodules.data import Precompute, StageData
from datamodules.dialogue.dialogues import Dialogue, Dialogues, open_dialogues
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.voices import Voices
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.padded import Padded

SCORED_BATCH_DIALOGUES = 20
"""Dialogues per batch in validation and test, whose live sessions run batched."""

Item = tuple[Dialogue | UnusableAudio, list[Utterance | UnusableAudio]]


@dataclasses.dataclass(frozen=True)
class DialogueBatch:
    """A batch of the stages that train on dialogues."""

    samples: Padded
    """(B, n) float32, the user's channel."""
    dialogues: list[Dialogue]
    """Without their own samples."""
    utterances: SpeechBatch
    """Extra single utterances."""
    skipped: list[str]
    """Why dialogues or utterances of this batch are missing, one sentence each."""
    frames: Padded | None = None
    """Precomputed encoder output, as in `SpeechBatch`."""
    features: Padded | None = None
    """Precomputed features of a pretrained encoder, as in `SpeechBatch`."""

    def __len__(self) -> int:
        return len(self.dialogues)

    def to(self, device: torch.device) -> "DialogueBatch":
        """Return the same batch with its samples, frames and features on `device`."""
        return dataclasses.replace(
            self,
            samples=self.samples.to(device),
            utterances=self.utterances.to(device),
            frames=None if self.frames is None else self.frames.to(device),
            features=None if self.features is None else self.features.to(device),
        )


class DialogueData(StageData):
    """Dialogues of the recorded questions that have answers, else of the default grammar's."""

    def train_dataloader(self) -> DataLoader:
        """Endless batches of dialogues of similar length, with extra utterances."""
        dialogues = self.dialogues("train", 0)
        batch_size = self.config.data.batch_dialogues

        def group(positions: Sequence[int]) -> list[list[int]]:
            # The number of events stands for the length, which is known only after synthesis.
            num_events = [len(dialogues.events(position)) for position in positions]
            return batch_by_length(positions, num_events, batch_size)

        stream = self.corpora.stream
        dataset = WithUtterances(
            self.add_features(dialogues),
            self.add_features(stream),
            self.config.stage.utterances_per_dialogue,
            # speech on the ramp is mostly synthetic
            first=stream.ramp,
            num_distinct=self.config.data.train_size,
        )
        return self._batches(dataset, self._endless(group), self.precompute)

    def num_distinct(self) -> int:
        """Number of different training dialogues; 0: no limit."""
        return self.config.data.train_dialogues

    def scored(self) -> dict[str, int]:
        """Return the settings that limit the scored dialogues, with their values."""
        data = self.config.data
        return {"valid_dialogues": data.valid_dialogues, "test_dialogues": data.test_dialogues}

    def strata(self, positions: range) -> list[Hashable]:
        """Return the kind of each dialogue's first event, which is its only one in stage state."""
        dialogues = self.dialogues("train", 0)
        return [dialogues.events(position)[0].kind for position in positions]

    def val_dataloader(self) -> DataLoader:
        """Dialogues of the valid split, without extra utterances."""
        return self._scored("valid", self.config.data.valid_dialogues)

    def test_dataloader(self) -> DataLoader:
        """Dialogues of the test split, without extra utterances."""
        return self._scored("test", self.config.data.test_dialogues)

    def dialogues(self, split: Split, size: int, voices: Voices | None = None) -> Dialogues:
        """Open the dialogues of a split, spoken in the voices of data.voices unless others are given."""
        recorded = self.corpora.recorded.get(split)
        if recorded is not None and not _has_answers(recorded):
            recorded = None
        return open_dialogues(self.config, split, size, recorded, voices)

    def _scored(self, split: Split, count: int) -> DataLoader:
        rank, world_size = self._rank()
        batches = []
        for first in range(0, count, SCORED_BATCH_DIALOGUES):
            last = min(first + SCORED_BATCH_DIALOGUES, count)
            batches.append(list(range(first, last)))
        own_batches = split_to_count(world_size, batches)[rank::world_size]
        dataset = WithUtterances(self.dialogues(split, count))
        return self._batches(dataset, own_batches)

    def _batches(
        self, dataset: Dataset, batches: Iterable[list[int]], precompute: Precompute | None = None
    ) -> DataLoader:
        # Whole speech embeddings, so that no speech is left over in a stream buffer.
        unit_samples = FrameTiming.of(self.config.model).samples_per_token
        collate_fn = functools.partial(collate_dialogues, unit_samples=unit_samples)
        return self._loader(dataset, batches, collate_fn, precompute)


def _has_answers(corpus: Corpus) -> bool:
    return any(corpus.qa_pair(index)[1] for index in range(len(corpus)))


class WithUtterances(Dataset[Item]):
    """Dialogues, each with the next `count` utterances of a stream.

    Args:
        dialogues: the dialogues.
        stream: source of the utterances; None: there are none.
        count: number of utterances per dialogue.
        first: position of the stream from which it is read.
        num_distinct: number of different utterances, which then repeat; 0: no limit.
    """

    def __init__(
        self,
        dialogues: Dataset[Dialogue],
        stream: Dataset[Utterance | UnusableAudio] | None = None,
        count: int = 0,
        first: int = 0,
        num_distinct: int = 0,
    ):
        self.dialogues = dialogues
        self.stream = stream
        self.count = count if stream is not None else 0
        self.first = first
        self.num_distinct = num_distinct

    def __getitem__(self, index: int) -> Item:
        utterances = []
        for number in range(index * self.count, (index + 1) * self.count):
            if self.num_distinct:
                number %= self.num_distinct
            assert self.stream is not None
            utterances.append(self.stream[self.first + number])
        try:
            return self.dialogues[index], utterances
        except UnusableAudio as error:
            return error, utterances


def collate_dialogues(items: list[Item], unit_samples: int) -> DialogueBatch:
    """Collate dialogues and utterances, padded with silence to a multiple of `unit_samples`."""
    dialogues = []
    skipped = []
    utterances: list[Utterance | UnusableAudio] = []
    for dialogue, extra_utterances in items:
        utterances += extra_utterances
        if isinstance(dialogue, Dialogue):
            dialogues.append(dialogue)
        else:
            skipped.append(str(dialogue))
    speech = collate(utterances, unit_samples)
    features = pad_features([dialogue.features for dialogue in dialogues])
    # The padded tensors hold audio and features; a second copy would only travel between processes.
    no_samples = np.zeros(0, np.float32)
    dialogues_alone = [
        dataclasses.replace(dialogue, samples=no_samples, features=None) for dialogue in dialogues
    ]
    return DialogueBatch(
        samples=pad_signals([dialogue.samples for dialogue in dialogues], unit_samples),
        dialogues=dialogues_alone,
        utterances=speech,
        skipped=[*skipped, *speech.skipped],
        features=features,
    )
