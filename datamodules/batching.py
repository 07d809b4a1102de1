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
    """Group positions by length so that longest times count stays within `batch_s`; none is left out."""
    batches: list[list[int]] = [[]]
    for i in np.argsort(durations_s, kind="stable"):
        if (
            batches[-1] and durations_s[i] * (len(batches[-1]) + 1) > batch_s
        ):  # ascending: i is the longest so far
            batches.append([])
        batches[-1].append(positions[int(i)])
    return [b for b in batches if b]


def alike(positions: Sequence[int], lengths: list[int], size: int) -> list[list[int]]:
    """Group positions by length, `size` at a time."""
    ordered = [positions[int(i)] for i in np.argsort(lengths, kind="stable")]
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def stratified(strata: Sequence[Hashable], size: int) -> list[int]:
    """`size` places of a sequence, or all: the first ones of each stratum, of each its share, rounded (Hare's way)."""
    places: dict[Hashable, list[int]] = {}
    for place, stratum in enumerate(strata):
        places.setdefault(stratum, []).append(place)
    quotas = [min(size, len(strata)) * len(group) / len(strata) for group in places.values()]
    counts = [int(quota) for quota in quotas]
    for i in sorted(range(len(counts)), key=lambda i: counts[i] - quotas[i])[
        : min(size, len(strata)) - sum(counts)
    ]:
        counts[i] += 1
    return sorted(
        place
        for group, count in zip(places.values(), counts, strict=True)
        for place in group[:count]
    )


def at_least(count: int, batches: list[list[int]]) -> list[list[int]]:
    """Halve the largest batches until there are `count`: a rank without any would wait for ever at the scores."""
    while len(batches) < count and len(largest := max(batches, key=len)) > 1:
        batches.remove(largest)
        batches += [largest[::2], largest[1::2]]
    return batches


def collate(items: list[Utterance | UnusableAudio], unit_samples: int) -> SpeechBatch:
    """Pad with silence; rows end on a multiple of `unit_samples`, so that no speech waits for more to come."""
    good = [i for i in items if isinstance(i, Utterance)]
    skipped = [str(i) for i in items if isinstance(i, UnusableAudio)]
    samples = pad_signals([i.samples for i in good], unit_samples)
    return SpeechBatch(samples, [i.text for i in good], [i.answer for i in good], skipped)


def pad_signals(signals: list[np.ndarray], unit_samples: int) -> Padded:
    """(n,) signals, each with silence behind it up to a multiple of `unit_samples`."""
    rows = [F.pad(torch.from_numpy(s), (0, -len(s) % unit_samples)) for s in signals]
    values = (
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        if rows
        else torch.zeros(0, unit_samples)
    )
    return Padded(values, torch.tensor([len(row) for row in rows], dtype=torch.int64))
