"""Utterances to batches, each a pure function of (seed, position), so that a run goes on where it was killed."""

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
"""Stream positions among which utterances of like length are put together."""
LANES = 16
"""Windows that take turns where speech comes in groups from a network: a data worker has lanes, and groups, of its own
where the number of all workers of all ranks divides this."""


@dataclasses.dataclass(frozen=True)
class SpeechBatch:
    """What a stage sees of speech."""

    samples: Padded
    """(B, n) float32; each row ends in silence up to a whole language-model token."""
    texts: list[str]
    answers: list[str]
    skipped: list[str]
    """Why utterances of this batch are missing, one sentence each."""
    frames: Padded | None = None
    """(B, T, D) what the encoder makes of the samples, where a data worker has run it."""

    def __len__(self) -> int:
        return len(self.texts)

    def to(self, device: torch.device) -> "SpeechBatch":
        """The same batch with its samples on `device`."""
        return dataclasses.replace(self, samples=self.samples.to(device))


class TrainingStream(Dataset[Utterance | UnusableAudio]):
    """An endless stream of training utterances drawn from synthetic and recorded speech.

    The synthetic share falls evenly from 1 to `synthetic_share` over the first `ramp` positions and stays there.
    Recorded utterances have new augmentation each time.
    """

    def __init__(
        self, synthetic: Corpus | None, recorded: Mixture | None, synthetic_share: float, ramp: int, seed: int,
        augment_config: AugmentConfig, rate_hz: int,
    ):  # fmt: skip
        self.synthetic, self.recorded, self.seed = synthetic, recorded, seed
        self.share = synthetic_share if recorded is not None else 1.0
        self.ramp = ramp if synthetic_share > 0 else 0
        self.augment_config, self.rate_hz = augment_config, rate_hz

    def __getitem__(self, position: int) -> Utterance | UnusableAudio:
        corpus, index = self._locate(position)
        try:
            utterance = corpus[index]
        except UnusableAudio as error:
            return error
        if corpus is self.synthetic:
            return utterance  # made augmented
        rng = np.random.default_rng([self.seed, position])
        return dataclasses.replace(
            utterance, samples=augment(utterance.samples, rng, self.augment_config, self.rate_hz)
        )

    def duration_s(self, position: int) -> float:
        corpus, index = self._locate(position)
        return corpus.duration_s(index)

    def qa_pair(self, position: int) -> tuple[str, str]:
        """Text and answer, without sound."""
        corpus, index = self._locate(position)
        return corpus.qa_pair(index)

    def _locate(self, position: int) -> tuple[Corpus, int]:
        synthetic_before = self._synthetic_before(position)
        if self._synthetic_before(position + 1) > synthetic_before:
            assert self.synthetic is not None
            return self.synthetic, synthetic_before
        assert self.recorded is not None
        return self.recorded.locate(position - synthetic_before)

    def _synthetic_before(self, position: int) -> int:
        on_the_ramp = min(position, self.ramp)
        recorded = (
            (1 - self.share) * on_the_ramp * (on_the_ramp / (2 * self.ramp) if self.ramp else 0)
        )
        recorded += (1 - self.share) * (position - on_the_ramp)
        return position - int(recorded)


class ScoredSet(Dataset[Utterance | UnusableAudio]):
    """The utterances of a corpus as they are."""

    def __init__(self, corpus: Corpus):
        self.corpus = corpus

    def __getitem__(self, index: int) -> Utterance | UnusableAudio:
        try:
            return self.corpus[index]
        except UnusableAudio as error:
            return error


class EndlessBatches(Sampler[list[int]]):
    """Batches of a stream's positions: those of batch k are the same in every run and process.

    Args:
        group: makes the batches of WINDOW positions; they come in random order.
        start: batch of this rank to begin with.
        rank, world: this process takes every `world`-th batch, or of every batch a part.
        positions: those to go through over and over; None: all.
        lanes: batch k is of lane k mod `lanes`, and so are windows.
        shared: batches are shared out; of one that does not go round somebody takes what another has.
    """

    def __init__(
        self, group: Callable[[Sequence[int]], list[list[int]]], seed: int, start: int = 0, rank: int = 0,
        world: int = 1, positions: Sequence[int] | None = None, lanes: int = 1, shared: bool = False,
    ):  # fmt: skip
        self.group, self.seed, self.positions, self.lanes, self.shared = (
            group,
            seed,
            positions,
            lanes,
            shared,
        )
        self.start, self.rank, self.world = start, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        if self.shared:
            for batch in itertools.islice(self._all(), self.start, None):
                yield batch[self.rank :: self.world] or batch[-1:]
        else:
            yield from itertools.islice(
                self._all(), self.start * self.world + self.rank, None, self.world
            )

    def _all(self) -> Iterator[list[int]]:
        lanes = [self._lane(first) for first in range(self.lanes)]
        while True:
            yield from map(next, lanes)

    def _lane(self, window: int) -> Iterator[list[int]]:
        while True:
            batches = self.group(self.positions or range(window * WINDOW, (window + 1) * WINDOW))
            for k in np.random.default_rng([self.seed, window]).permutation(len(batches)):
                yield batches[k]
            window += self.lanes


class FiniteBatches(Sampler[list[int]]):
    """Every utterance of a corpus once, the ranks taking turns."""

    def __init__(self, corpus: Corpus, batch_s: float, rank: int = 0, world: int = 1):
        indices = range(len(corpus))
        batches = pack(indices, [corpus.duration_s(i) for i in indices], batch_s)
        self.batches = at_least(world, batches)[rank::world]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def pack(positions: Sequence[int], durations_s: Sequence[float], batch_s: float) -> list[list[int]]:
    """Group positions by duration into batches whose padded total, longest times count, is at most `batch_s` seconds.

    No position is left out: an utterance longer than `batch_s` has a batch of its own.
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


def alike(positions: Sequence[int], lengths: list[int], size: int) -> list[list[int]]:
    """Group positions by length, `size` to a batch."""
    ordered = [positions[int(i)] for i in np.argsort(lengths, kind="stable")]
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def stratified(strata: Sequence[Hashable], size: int) -> list[int]:
    """Indices of a stratified sample of a sequence.

    Each stratum contributes its first elements in proportion to its size (largest remainder method).

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


def at_least(count: int, batches: list[list[int]]) -> list[list[int]]:
    """Halve the largest batches until there are `count`, since a rank without a batch would block the others."""
    while len(batches) < count:
        largest = max(batches, key=len)
        if len(largest) == 1:
            break
        batches.remove(largest)
        batches += [largest[::2], largest[1::2]]
    return batches


def collate(items: list[Utterance | UnusableAudio], unit_samples: int) -> SpeechBatch:
    """Batch utterances; each is padded with silence to a multiple of `unit_samples`, so that the model sees its end.

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
    )


def pad_signals(signals: list[np.ndarray], unit_samples: int) -> Padded:
    """Batch (n,) signals as (B, n), each followed by silence up to a multiple of `unit_samples`."""
    rows = []
    for signal in signals:
        num_missing = -len(signal) % unit_samples
        rows.append(F.pad(torch.from_numpy(signal), (0, num_missing)))
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    if not rows:
        return Padded(torch.zeros(0, unit_samples), lengths)
    values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return Padded(values, lengths)
