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
from datamodules.conversations.corpus import (
    ExcerptStream,
    OpenedManifest,
    excerpt_stream,
    joined,
    open_conversations,
)
from datamodules.corpus import Corpus, UnusableAudio, Utterance
from datamodules.data import AddFeatures, Precompute, StageData
from datamodules.dialogue.dialogues import Dialogue, Dialogues, open_dialogues
from datamodules.sources.corpus_manifest import Survey
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.voices import Voices
from duplexmamba.models.timing import FrameTiming
from duplexmamba.streaming.padded import Padded

SCORED_BATCH_DIALOGUES = 20
"""Dialogues per batch in validation and test, whose live sessions run batched."""

SECONDS_PER_EVENT = 4.0
"""Length of an event of a composed dialogue with the gap after it, on average."""

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
    """Composed dialogues, excerpts of recorded conversations, or both.

    Composed ones are of the recorded questions that have answers, else of the default grammar's.
    Where there are conversations, their valid and test splits alone are scored.
    """

    @functools.cached_property
    def conversations(self) -> dict[str, OpenedManifest]:
        """The manifests of `data.conversations` by their paths.

        Raises:
            ValueError: one cannot be used; see `open_conversations`.
        """
        return open_conversations(self.config)

    @property
    def surveys(self) -> dict[str, Survey]:
        """Path of each manifest of conversations -> sizes and what is left out."""
        return {path: manifest.survey for path, manifest in self.conversations.items()}

    def train_dataloader(self) -> DataLoader:
        """Endless batches of dialogues of similar length, with extra utterances."""
        dialogues = self.training_dialogues()
        batch_size = self.config.data.batch_dialogues

        def group(positions: Sequence[int]) -> list[list[int]]:
            lengths = [dialogues.length(position) for position in positions]
            return batch_by_length(positions, lengths, batch_size)

        stream = self.corpora.stream
        dataset = WithUtterances(
            dialogues,
            self.add_features(stream),
            self.config.stage.utterances_per_dialogue,
            # speech on the ramp is mostly synthetic
            first=stream.ramp,
            num_distinct=self.config.data.train_size,
        )
        return self._batches(dataset, self._endless(group), self.precompute)

    def training_dialogues(self) -> "TrainingDialogues":
        """All that is trained on, by position.

        Raises:
            ValueError: the dialogues cannot be composed, or a manifest cannot be used.
        """
        composed = self.dialogues("train", 0)
        composed_share = self.config.data.composed_share
        if not self.conversations:
            composed_share = 1.0
        excerpts = None
        if composed_share < 1:
            excerpts = excerpt_stream(self.conversations, self.config)
        return TrainingDialogues(composed, excerpts, composed_share, self.add_features)

    def num_distinct(self) -> int:
        """Number of different training dialogues; 0: no limit."""
        return self.config.data.train_dialogues

    def scored(self) -> dict[str, int]:
        """Return the settings that limit the scored dialogues, with the number that is scored."""
        data = self.config.data
        counts = {"valid_dialogues": data.valid_dialogues, "test_dialogues": data.test_dialogues}
        if self.conversations:
            for setting, count in counts.items():
                split = setting.removesuffix("_dialogues")
                counts[setting] = min(count, len(joined(self.conversations, split)))
        return counts

    def strata(self, positions: range) -> list[Hashable]:
        """Return the kind of each dialogue's first event, which is its only one in stage state."""
        dialogues = self.training_dialogues()
        return [dialogues.stratum(position) for position in positions]

    def val_dataloader(self) -> DataLoader:
        """Dialogues of the valid split, without extra utterances."""
        return self._scored("valid", self.scored()["valid_dialogues"])

    def test_dataloader(self) -> DataLoader:
        """Dialogues of the test split, without extra utterances."""
        return self._scored("test", self.scored()["test_dialogues"])

    def dialogues(self, split: Split, size: int, voices: Voices | None = None) -> Dialogues:
        """Open the composed dialogues of a split, spoken in the voices of data.voices unless others are given."""
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
        dialogues: Dataset[Dialogue]
        if self.conversations:
            dialogues = joined(self.conversations, split)
        else:
            dialogues = self.dialogues(split, count)
        dataset = WithUtterances(dialogues)
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


class TrainingDialogues(Dataset[Dialogue]):
    """Composed dialogues and excerpts of conversations in fixed shares, endless.

    Args:
        composed: composed dialogues.
        excerpts: of conversations; None only if `composed_share` is 1.
        composed_share: share of composed dialogues.
        add_features: adds the features of a pretrained encoder to both.
    """

    def __init__(
        self,
        composed: Dialogues,
        excerpts: ExcerptStream | None,
        composed_share: float,
        add_features: AddFeatures,
    ):
        self.composed = composed
        self.excerpts = excerpts
        self.composed_share = composed_share
        self._composed_items = add_features(composed)
        self._excerpt_items = add_features(excerpts) if excerpts is not None else None

    def __getitem__(self, position: int) -> Dialogue:
        """Make or read a dialogue.

        Raises:
            UnusableAudio: one of its recordings cannot be used.
        """
        is_composed, index = self._locate(position)
        if is_composed:
            return self._composed_items[index]
        assert self._excerpt_items is not None
        return self._excerpt_items[index]

    def length(self, position: int) -> float:
        """Length of a dialogue, without making it.

        The number of events stands for it, since the length of composed ones is known only after
        synthesis.
        """
        is_composed, index = self._locate(position)
        if is_composed:
            return len(self.composed.events(index))
        assert self.excerpts is not None
        return self.excerpts.duration_s(index) / SECONDS_PER_EVENT

    def stratum(self, position: int) -> Hashable:
        """Sort of a dialogue: the kind of its first event, or that it is recorded."""
        is_composed, index = self._locate(position)
        return self.composed.events(index)[0].kind if is_composed else "recorded"

    def _locate(self, position: int) -> tuple[bool, int]:
        """Whether the dialogue at a position is composed, and its index among those of its sort."""
        num_composed = self._num_composed(position)
        if self._num_composed(position + 1) > num_composed:
            return True, num_composed
        return False, position - num_composed

    def _num_composed(self, position: int) -> int:
        """Number of composed dialogues among the first `position` ones."""
        return int(position * self.composed_share)


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
