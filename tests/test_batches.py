"""Batches are a pure function of (seed, number), are not too long, and contain every position."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from configs.loading import override
from configs.schema import Config
from datamodules.batching import (
    EndlessBatches,
    FiniteBatches,
    TrainingStream,
    batch_by_length,
    collate,
    pack,
    split_to_count,
)
from datamodules.corpora import Corpora
from datamodules.corpus import UnusableAudio, Utterance
from datamodules.data import SpeechData
from datamodules.mixture import Mixture


class Tones:
    """A corpus of constant signals; number 7 of the default corpus is broken."""

    def __init__(self, size: int, name: str = "tone"):
        self.size, self.name = size, name

    def __len__(self) -> int:
        return self.size

    def duration_s(self, index: int) -> float:
        return 0.5 + (index * 37 % 10) / 10

    def qa_pair(self, index: int) -> tuple[str, str]:
        return f"{self.name} {index}", ""

    def __getitem__(self, index: int) -> Utterance:
        if index == 7 and self.name == "tone":
            raise UnusableAudio("7.wav is broken")
        n = int(16000 * self.duration_s(index))
        return Utterance(str(index), np.full(n, 0.1, np.float32), f"{self.name} {index}", "", "s")


@pytest.fixture
def stream(config: Config) -> TrainingStream:
    return TrainingStream(
        Tones(10**9, "made"), Mixture([Tones(10)], [1], 1), 0.4, 0, 1, config.data.augment, 16000
    )


def pack_20_s(stream: TrainingStream) -> Callable[[range], list[list[int]]]:
    return lambda positions: pack(positions, [stream.duration_s(p) for p in positions], 20)


def first(batches: EndlessBatches, count: int) -> list[list[int]]:
    return list(itertools.islice(batches, count))


def test_batches_can_start_at_any_number(stream: TrainingStream) -> None:
    whole = first(EndlessBatches(pack_20_s(stream), seed=3), 120)
    assert first(EndlessBatches(pack_20_s(stream), seed=3, start=100), 20) == whole[100:]
    assert first(EndlessBatches(pack_20_s(stream), seed=4), 120) != whole


def test_a_shared_batch_is_split_among_the_ranks(stream: TrainingStream) -> None:
    """A batch with fewer positions than ranks gives one of them to several ranks."""
    for group in (pack_20_s(stream), lambda positions: [[p] for p in positions]):
        whole = first(EndlessBatches(group, seed=3), 20)
        parts = [
            first(EndlessBatches(group, 3, start=4, rank=r, world=2, shared=True), 16)
            for r in (0, 1)
        ]
        for batch, *shares in zip(whole[4:], *parts, strict=True):
            assert {*shares[0], *shares[1]} == {*batch} and all(shares)
            assert (
                sum(map(len, shares)) == max(2, len(batch))
                and abs(len(shares[0]) - len(shares[1])) <= 1
            )


@pytest.mark.parametrize(("devices", "whole"), [(1, True), (2, False)])
def test_ranks_of_one_device_split_the_batches_of_a_single_rank(
    config: Config, devices: int, whole: bool
) -> None:
    def positions(rank: int, world: int) -> list[list[int]]:
        data = SpeechData(override(config, [f"trainer.devices={devices}"]), corpora)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        return list(itertools.islice(data.train_dataloader().batch_sampler, 12))

    corpora = Corpora(config)
    single, first_half, second_half = positions(0, 1), positions(0, 2), positions(1, 2)
    joined = [{*a, *b} for a, b in zip(first_half, second_half, strict=True)]
    assert (joined == [{*batch} for batch in single]) == whole


def test_ranks_take_batches_in_turn(stream: TrainingStream) -> None:
    whole = first(EndlessBatches(pack_20_s(stream), seed=3), 20)
    ranks = [
        first(EndlessBatches(pack_20_s(stream), seed=3, start=2, rank=r, world=2), 8)
        for r in (0, 1)
    ]
    assert [b for pair in zip(*ranks, strict=True) for b in pair] == whole[4:]


def test_every_position_is_packed_once_and_no_batch_is_too_long(stream: TrainingStream) -> None:
    batches = pack(range(100, 300), [stream.duration_s(p) for p in range(100, 300)], 20)
    assert sorted(itertools.chain(*batches)) == list(range(100, 300))
    assert max(len(b) * max(stream.duration_s(p) for p in b) for b in batches) <= 20


def test_texts_of_similar_length_are_batched_together() -> None:
    batches = batch_by_length(range(50, 60), [5, 1, 5, 1, 9, 1, 9, 5, 1, 1], 4)
    assert batches == [[51, 53, 55, 58], [59, 50, 52, 57], [54, 56]]


def test_the_stream_has_the_synthetic_share_and_visits_every_recording_in_each_round(
    stream: TrainingStream,
) -> None:
    texts = [stream.qa_pair(p)[0] for p in range(1000)]
    assert sum(t.startswith("made") for t in texts) == 400
    recorded = [t for t in texts if t.startswith("tone")]
    rounds = [recorded[i : i + 10] for i in range(0, 600, 10)]
    assert all(len(set(r)) == 10 for r in rounds) and rounds[0] != rounds[1]


def test_a_ramp_starts_with_synthetic_speech_only(config: Config) -> None:
    stream = TrainingStream(
        Tones(10**9, "made"), Mixture([Tones(10)], [1], 1), 0.4, 1000, 1, config.data.augment, 16000
    )
    made = [stream.qa_pair(p)[0].startswith("made") for p in range(3000)]
    shares = [sum(made[i : i + 250]) / 250 for i in range(0, 3000, 250)]
    assert shares[:4] == sorted(shares[:4], reverse=True) and shares[0] > 0.9
    assert shares[4:] == pytest.approx([0.4] * 8, abs=0.01)
    assert [stream.qa_pair(p)[0] for p, m in enumerate(made) if m][:3] == [
        "made 0",
        "made 1",
        "made 2",
    ]


def test_an_item_is_reproducible_and_augmented_anew_in_the_next_round(
    stream: TrainingStream,
) -> None:
    tones = [p for p in range(60) if stream.qa_pair(p)[0] == "tone 3"]
    once, again, later = (stream[p] for p in (tones[0], tones[0], tones[1]))
    assert np.array_equal(once.samples, again.samples)
    assert once.samples.shape != later.samples.shape or not np.array_equal(
        once.samples, later.samples
    )


def test_a_broken_item_is_named_and_the_others_are_batched(stream: TrainingStream) -> None:
    broken = next(p for p in range(60) if stream.qa_pair(p)[0] == "tone 7")
    batch = collate([stream[broken], stream[broken + 1]], unit_samples=3200)
    assert batch.skipped == ["7.wav is broken"] and len(batch.texts) == 1


def test_rows_are_padded_with_silence_to_a_whole_token() -> None:
    items = [Utterance("a", np.ones(n, np.float32), "x", "", "") for n in (3200, 3201, 10)]
    batch = collate(items, unit_samples=3200)
    assert batch.samples.lengths.tolist() == [3200, 6400, 3200]
    assert (
        batch.samples.values[1, 3201:].abs().sum() == 0
        and batch.samples.values.dtype == torch.float32
    )


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_utterance_is_scored_once_and_every_rank_has_a_batch(world: int) -> None:
    shares = [list(FiniteBatches(Tones(7), 100, rank, world)) for rank in range(world)]
    assert all(shares) and sorted(i for share in shares for batch in share for i in batch) == list(
        range(7)
    )
    assert split_to_count(5, [[1], [2]]) == [[1], [2]]
