"""Batches of dialogues, with single utterances beside them."""

import dataclasses
import functools
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.batching import SpeechBatch, TrainingStream, alike, at_least, collate, pad_signals
from datamodules.corpus import UnusableAudio, Utterance
from datamodules.data import Ahead, StageData
from datamodules.dialogue.dialogues import Dialogue, Dialogues, open_dialogues
from datamodules.synthetic.grammar import Split
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.padded import Padded

SCORED_TOGETHER = 20
"""Dialogues in one batch where nothing is learnt, whose live sessions go side by side."""

Item = tuple[Dialogue | UnusableAudio, list[Utterance | UnusableAudio]]


@dataclasses.dataclass(frozen=True)
class DialogueBatch:
    """What a stage sees of dialogues."""

    samples: Padded
    """(B, n) float32, the user's channel."""
    dialogues: list[Dialogue]
    """Their own samples left out."""
    utterances: SpeechBatch
    skipped: list[str]
    """Why dialogues or utterances of this batch are missing, one sentence each."""
    frames: Padded | None = None
    """As in `SpeechBatch`."""

    def __len__(self) -> int:
        return len(self.dialogues)

    def to(self, device: torch.device) -> "DialogueBatch":
        """The same batch with its samples on `device`."""
        return dataclasses.replace(
            self, samples=self.samples.to(device), utterances=self.utterances.to(device)
        )


class DialogueData(StageData):
    """Dialogues of the recorded questions that have answers, or, where there are none, of the default grammar's."""

    def train_dataloader(self) -> DataLoader:
        dialogues, size = self.dialogues("train", 0), self.config.data.batch_dialogues

        def group(positions: Sequence[int]) -> list[list[int]]:
            return alike(positions, [len(dialogues.events(p)) for p in positions], size)

        beside = self.config.stage.utterances_per_dialogue
        return self._batches(
            WithUtterances(dialogues, self.corpora.stream, beside), self._endless(group), self.ahead
        )

    def scored(self) -> dict[str, int]:
        return {
            field: getattr(self.config.data, field)
            for field in ("valid_dialogues", "test_dialogues")
        }

    def strata(self, positions: range) -> list[Hashable]:
        """The kind of each dialogue's first event, which is its only one in stage state."""
        dialogues = self.dialogues("train", 0)
        return [dialogues.events(position)[0].kind for position in positions]

    def val_dataloader(self) -> DataLoader:
        return self._scored("valid", self.config.data.valid_dialogues)

    def test_dataloader(self) -> DataLoader:
        return self._scored("test", self.config.data.test_dialogues)

    def dialogues(self, split: Split, size: int) -> Dialogues:
        """Those of a split."""
        recorded = self.corpora.recorded.get(split)
        answered = recorded is not None and any(
            recorded.qa_pair(i)[1] for i in range(len(recorded))
        )
        return open_dialogues(self.config, split, size, recorded if answered else None)

    def _scored(self, split: Split, count: int) -> DataLoader:
        rank, world = self._rank()
        batches = [
            list(range(i, min(i + SCORED_TOGETHER, count)))
            for i in range(0, count, SCORED_TOGETHER)
        ]
        none_beside = WithUtterances(self.dialogues(split, count), self.corpora.stream, 0)
        return self._batches(none_beside, at_least(world, batches)[rank::world])

    def _batches(
        self, dataset: Dataset, batches: Iterable[list[int]], ahead: Ahead | None = None
    ) -> DataLoader:
        unit = FrameTiming.of(self.config.model).samples_per_token
        return self._loader(
            dataset, batches, functools.partial(collate_dialogues, unit_samples=unit), ahead
        )


class WithUtterances(Dataset[Item]):
    """Every dialogue with the next `count` utterances of a stream."""

    def __init__(self, dialogues: Dialogues, stream: TrainingStream, count: int):
        self.dialogues, self.stream, self.count = dialogues, stream, count

    def __getitem__(self, index: int) -> Item:
        first = self.stream.ramp + index * self.count
        beside = [self.stream[i] for i in range(first, first + self.count)]
        try:
            return self.dialogues[index], beside
        except UnusableAudio as error:
            return error, beside


def collate_dialogues(items: list[Item], unit_samples: int) -> DialogueBatch:
    """Pad with silence to a multiple of `unit_samples`."""
    good = [dialogue for dialogue, _ in items if isinstance(dialogue, Dialogue)]
    utterances = collate([utterance for _, beside in items for utterance in beside], unit_samples)
    broken = [str(dialogue) for dialogue, _ in items if isinstance(dialogue, UnusableAudio)]
    none = np.zeros(0, np.float32)
    return DialogueBatch(
        samples=pad_signals([dialogue.samples for dialogue in good], unit_samples),
        dialogues=[dataclasses.replace(dialogue, samples=none) for dialogue in good],
        utterances=utterances,
        skipped=[*broken, *utterances.skipped],
    )
