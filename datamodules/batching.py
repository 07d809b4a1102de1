"""Batches of utterances.

Batch k is a pure function of the configuration and k, so that a killed run can resume.
"""

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, Sampler

from configs.schema import AugmentConfig
from datamodules.corpus import Corpus, UnusableAudio, Utterance
from datamodules.mixture import Mixture
from datamodules.synthetic.augment import augment
from duplexmamba.streaming.padded import Padded

WINDOW = 512
"""Consecutive positions of the stream that are sorted into batches of similar length."""
LANES = 16
"""Windows that are interleaved where speech is fetched in groups from a network.

Each data worker then has its own windows, and groups, if the number of workers of all ranks divides
LANES.
"""


@dataclasses.dataclass(frozen=True)
class SpeechBatch:
    """A batch of speech as the stages receive it."""

    samples: Padded
    """(B, n) float32; each row is padded with silence to a multiple of a language-model token."""
    texts: list[str]
    """Transcript of each utterance."""
    answers: list[str]
    """Expected response to each utterance; empty: none."""
    skipped: list[str]
    """Why utterances of this batch are missing, one sentence each."""
    frames: Padded | None = None
    """(B, T, D) encoder output, where a data worker has precomputed it."""
    features: Padded | None = None
    """(B, F, M) features of the model's own pretrained encoder, normalised, which take the place of
    the samples."""
    teacher: Padded | None = None
    """(B, F, M) normalised features of another encoder, `stage.teacher`, which are learnt from the
    samples."""
    ids: Sequence[str] = ()
    """Name of each utterance in its corpus, by which messages name it; (): unknown."""

    def __len__(self) -> int:
        return len(self.texts)

    def to(self, device: torch.device) -> "SpeechBatch":
        """Copy of the batch with its samples, frames and features on `device`."""
        return dataclasses.replace(
            self,
            samples=self.samples.to(device),
            frames=None if self.frames is None else self.frames.to(device),
            features=None if self.features is None else self.features.to(device),
            teacher=None if self.teacher is None else self.teacher.to(device),
        )


class TrainingStream(Dataset[Utterance | UnusableAudio]):
    """An endless stream of training utterances drawn from synthetic and recorded speech.

    The synthetic share falls linearly from 1 to `synthetic_share` over the first `ramp` positions
    and stays there. Recorded utterances are augmented anew each time they are drawn; synthetic ones
    are augmented when they are synthesised.

    Args:
        synthetic: synthetic speech; None only if `synthetic_share` is 0.
        recorded: recorded speech; None: all speech is synthetic.
        synthetic_share: share of synthetic utterances after the ramp.
        ramp: positions over which the share falls.
        seed: selects the augmentation.
        augment_config: augmentation of recorded speech.
        rate_hz: sample rate of the utterances.
    """

    def __init__(
        self,
        synthetic: Corpus | None,
        recorded: Mixture[Corpus] | None,
        synthetic_share: float,
        ramp: int,
        seed: int,
        augment_config: AugmentConfig,
        rate_hz: int,
    ):
        self.synthetic = synthetic
        self.recorded = recorded
        self.seed = seed
        self.share = synthetic_share if recorded is not None else 1.0
        self.ramp = ramp if synthetic_share > 0 else 0
        self.augment_config = augment_config
        self.rate_hz = rate_hz

    def __getitem__(self, position: int) -> Utterance | UnusableAudio:
        corpus, index = self._locate(position)
        try:
            utterance = corpus[index]
        except UnusableAudio as error:
            # Returned, since a raised exception would end the run.
            return error
        if corpus is self.synthetic:
            return utterance
        # Seeded by position: utterance n sounds the same in a resumed run.
        rng = np.random.default_rng([self.seed, position])
        samples = augment(utterance.samples, rng, self.augment_config, self.rate_hz)
        return dataclasses.replace(utterance, samples=samples)

    def duration_s(self, position: int) -> float:
        """Length in seconds, exact or estimated, without reading audio."""
        corpus, index = self._locate(position)
        return corpus.duration_s(index)

    def qa_pair(self, position: int) -> tuple[str, str]:
        """Text and answer, without reading audio."""
        corpus, index = self._locate(position)
        return corpus.qa_pair(index)

    def is_synthetic(self, position: int) -> bool:
        """Whether the utterance at a position is synthetic."""
        corpus, _ = self._locate(position)
        return corpus is self.synthetic

    def _locate(self, position: int) -> tuple[Corpus, int]:
        """Corpus and index of the utterance at a position."""
        num_synthetic = self._num_synthetic(position)
        # The position is synthetic if it increases the number of synthetic utterances by one.
        if self._num_synthetic(position + 1) > num_synthetic:
            assert self.synthetic is not None
            return self.synthetic, num_synthetic
        assert self.recorded is not None
        return self.recorded.locate(position - num_synthetic)

    def _num_synthetic(self, position: int) -> int:
        """Number of synthetic utterances among the first `position` of the stream."""
        on_ramp = min(position, self.ramp)
        mean_progress = on_ramp / (2 * self.ramp) if self.ramp else 0
        # The recorded share rises linearly along the ramp: its integral is quadratic.
        num_recorded = (1 - self.share) * on_ramp * mean_progress
        num_recorded += (1 - self.share) * (position - on_ramp)
        return position - int(num_recorded)


class ScoredSet(Dataset[Utterance | UnusableAudio]):
    """The utterances of a corpus without augmentation, for validation and test."""

    def __init__(self, corpus: Corpus):
        self.corpus = corpus

    def __getitem__(self, index: int) -> Utterance | UnusableAudio:
        try:
            return self.corpus[index]
        except UnusableAudio as error:
            return error


class EndlessBatches(Sampler[list[int]]):
    """Batches of positions of an endless stream; batch k is the same in every run and process.

    Args:
        group: forms the batches of WINDOW positions; they are then yielded in random order.
        seed: selects that order.
        start: first batch of this rank.
        rank: number of this process.
        world: number of processes; each takes every `world`-th batch, or with `shared` a part of
            every batch.
        positions: a finite set of positions to repeat without end; None: the whole stream.
        lanes: number of interleaved windows: batch k belongs to lane k mod `lanes`, and window w to
            lane w mod `lanes`.
        shared: split each batch among the processes; one that would get nothing repeats the last
            position.
    """

    def __init__(
        self,
        group: Callable[[Sequence[int]], list[list[int]]],
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        positions: Sequence[int] | None = None,
        lanes: int = 1,
        shared: bool = False,
    ):
        self.group = group
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world = world
        self.positions = positions
        self.lanes = lanes
        self.shared = shared

    def __iter__(self) -> Iterator[list[int]]:
        if self.shared:
            # Every process goes through all batches and takes its positions of each.
            for batch in itertools.islice(self._all_batches(), self.start, None):
                yield batch[self.rank :: self.world] or batch[-1:]
            return
        first = self.start * self.world + self.rank
        yield from itertools.islice(self._all_batches(), first, None, self.world)

    def _all_batches(self) -> Iterator[list[int]]:
        # A DataLoader deals batches out to its workers in turn. With as many lanes as workers, or a
        # multiple, each worker reads whole windows, and thus few groups of remote speech.
        lanes = [self._lane_batches(first_window) for first_window in range(self.lanes)]
        while True:
            for lane in lanes:
                yield next(lane)

    def _lane_batches(self, window: int) -> Iterator[list[int]]:
        while True:
            positions = self.positions or range(window * WINDOW, (window + 1) * WINDOW)
            batches = self.group(positions)
            # `group` sorts by length; in that order short utterances would come first.
            rng = np.random.default_rng([self.seed, window])
            for k in rng.permutation(len(batches)):
                yield batches[k]
            window += self.lanes


class FiniteBatches(Sampler[list[int]]):
    """Batches that hold every utterance of a corpus once, distributed over the ranks in turn.

    Args:
        corpus: the corpus.
        batch_s: padded seconds per batch at most.
        rank: number of this process.
        world: number of processes.
    """

    def __init__(self, corpus: Corpus, batch_s: float, rank: int = 0, world: int = 1):
        indices = range(len(corpus))
        durations_s = [corpus.duration_s(i) for i in indices]
        batches = pack(indices, durations_s, batch_s)
        self.batches = split_to_count(world, batches)[rank::world]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def pack(positions: Sequence[int], durations_s: Sequence[float], batch_s: float) -> list[list[int]]:
    """Group positions by duration into batches of at most `batch_s` padded seconds.

    The padded length of a batch is its longest utterance times its number of utterances. No
    position is left out: an utterance longer than `batch_s` has a batch of its own.

    Args:
        positions: positions of a stream.
        durations_s: seconds of each.
        batch_s: padded seconds of a batch at most.

    Returns:
        Positions of each batch, from the shortest utterances to the longest.
    """
    batches: list[list[int]] = []
    current: list[int] = []
    for i in np.argsort(durations_s, kind="stable"):
        # Ascending order: utterance i is the longest of its batch so far.
        padded_s = durations_s[i] * (len(current) + 1)
        if current and padded_s > batch_s:
            batches.append(current)
            current = []
        current.append(positions[int(i)])
    if current:
        batches.append(current)
    return batches


def batch_by_length(
    positions: Sequence[int], lengths: Sequence[float], size: int
) -> list[list[int]]:
    """Group positions by length, `size` to a batch."""
    ordered = [positions[int(i)] for i in np.argsort(lengths, kind="stable")]
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def stratified(strata: Sequence[Hashable], size: int) -> list[int]:
    """Indices of a stratified sample of a sequence.

    Each stratum contributes its first elements in proportion to its size (largest remainder
    method).

    Args:
        strata: stratum of each element.
        size: size of the sample; all indices where there are fewer elements.

    Returns:
        Ascending indices.
    """
    indices_by_stratum: dict[Hashable, list[int]] = {}
    for index, stratum in enumerate(strata):
        indices_by_stratum.setdefault(stratum, []).append(index)
    groups = list(indices_by_stratum.values())
    total = min(size, len(strata))
    # Largest remainder method: round down, then give what is missing to the largest remainders.
    exact = [total * len(group) / len(strata) for group in groups]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(counts)), key=lambda i: counts[i] - exact[i])
    num_missing = total - sum(counts)
    for i in by_remainder[:num_missing]:
        counts[i] += 1
    sample: list[int] = []
    for group, count in zip(groups, counts, strict=True):
        sample += group[:count]
    return sorted(sample)


def split_to_count(count: int, batches: list[list[int]]) -> list[list[int]]:
    """Halve the largest batches until there are `count`, or until each holds one element.

    A rank without a batch would block the others.
    """
    while len(batches) < count:
        largest = max(batches, key=len)
        if len(largest) == 1:
            break
        # Interleaved halves, so that both have the same lengths.
        batches.remove(largest)
        batches += [largest[::2], largest[1::2]]
    return batches


def collate(items: list[Utterance | UnusableAudio], unit_samples: int) -> SpeechBatch:
    """Batch utterances, each padded with silence to a multiple of `unit_samples`.

    Without the padding the end of an utterance would not fill a token, and the model would not see
    it.

    Args:
        items: utterances, and the errors of those that could not be read.
        unit_samples: samples of one language-model token.
    """
    utterances: list[Utterance] = []
    skipped: list[str] = []
    for item in items:
        if isinstance(item, Utterance):
            utterances.append(item)
        else:
            skipped.append(str(item))
    return SpeechBatch(
        samples=pad_signals([u.samples for u in utterances], unit_samples),
        texts=[u.text for u in utterances],
        answers=[u.answer for u in utterances],
        skipped=skipped,
        features=pad_features([u.features for u in utterances]),
        teacher=pad_features([u.teacher for u in utterances]),
        ids=[u.id for u in utterances],
    )


def pad_features(rows: Sequence[np.ndarray | None]) -> Padded | None:
    """Batch features (F, M) as (B, F, M); None: there are no rows, or they have no features."""
    signals = [torch.from_numpy(row) for row in rows if row is not None]
    if not signals:
        return None
    assert len(signals) == len(rows)
    lengths = torch.tensor([len(signal) for signal in signals])
    return Padded(torch.nn.utils.rnn.pad_sequence(signals, batch_first=True), lengths)


def pad_signals(signals: list[np.ndarray], unit_samples: int) -> Padded:
    """Batch (n,) signals as (B, n), each followed by silence up to a multiple of `unit_samples`.

    The lengths of the result include this silence.
    """
    rows = []
    for signal in signals:
        num_missing = -len(signal) % unit_samples
        rows.append(F.pad(torch.from_numpy(signal), (0, num_missing)))
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    if not rows:
        return Padded(torch.zeros(0, unit_samples), lengths)
    values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, n)
    return Padded(values, lengths)
