"""Mixtures: exact shares, passes that visit every utterance, and order by groups."""

import collections
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamodules.batching import EndlessBatches
from datamodules.mixture import SHUFFLE_WINDOW, Mixture, quotas, shuffled, tempered


class Numbers:
    """A corpus of numbers."""

    def __init__(self, size: int, groups: np.ndarray | None = None):
        self.size, self.groups = size, groups

    def __len__(self) -> int:
        return self.size

    def duration_s(self, index: int) -> float:
        return 1.0

    def qa_pair(self, index: int) -> tuple[str, str]:
        return str(index), ""

    def __getitem__(self, index: int) -> int:
        return index


def drawn(mixture: Mixture, count: int, first: int = 0) -> list[tuple[int, int]]:
    located = [mixture.locate(n) for n in range(first, first + count)]
    return [(mixture.corpora.index(corpus), index) for corpus, index in located]


def test_every_corpus_has_its_share_and_each_round_visits_every_utterance() -> None:
    mixture = Mixture([Numbers(50), Numbers(7), Numbers(400)], [5, 3, 2], seed=1)
    draws = drawn(mixture, 3000)
    shares = collections.Counter(source for source, _ in draws)
    assert [shares[s] / 3000 for s in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.002)
    for source, corpus in enumerate(mixture.corpora):
        own = [index for s, index in draws if s == source]
        rounds = [
            own[i : i + len(corpus)] for i in range(0, len(own) - len(corpus) + 1, len(corpus))
        ]
        assert all(sorted(r) == list(range(len(corpus))) for r in rounds) and rounds
        assert len(rounds) == 1 or rounds[0] != rounds[1]


def test_a_draw_is_a_function_of_seed_and_number() -> None:
    corpora = [Numbers(50), Numbers(7)]
    whole = drawn(Mixture(corpora, [1, 2], seed=1), 2500)
    assert drawn(Mixture(corpora, [1, 2], seed=1), 700, first=1800) == whole[1800:]
    assert drawn(Mixture(corpora, [1, 2], seed=2), 2500) != whole
    assert drawn(pickle.loads(pickle.dumps(Mixture(corpora, [1, 2], seed=1))), 0) == []


def test_a_high_temperature_makes_weights_more_alike() -> None:
    assert tempered([100, 1], 1) == [1, 0.01]
    assert tempered([100, 1], 2) == pytest.approx([1, 0.1])
    assert tempered([1e9, 1], 0.01)[0] == 1


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_quotas_are_whole_numbers_of_at_least_one(weights: list[float]) -> None:
    counts = quotas(weights, 1000)
    assert sum(counts) == 1000 and min(counts) >= 1
    ordered = [counts[i] for i in np.argsort(weights, kind="stable")]
    assert all(b >= a - 1 for a, b in zip(ordered, ordered[1:], strict=False))


def test_groups_are_visited_one_after_another_in_a_new_order_each_round() -> None:
    groups = np.repeat(np.arange(40), 100)
    order, other = (shuffled(4000, groups, np.random.default_rng(seed)) for seed in (1, 2))
    assert sorted(order) == list(range(4000)) and not np.array_equal(order, other)
    for i in range(0, 4000, SHUFFLE_WINDOW):
        assert len(set(groups[order[i : i + SHUFFLE_WINDOW]])) <= 4


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_lanes_assign_each_window_to_one_worker(workers: int) -> None:
    """Ranks take batches in turn, and a DataLoader distributes them to its workers in turn."""
    whole = EndlessBatches(
        lambda positions: [[*positions][i : i + 8] for i in range(0, 512, 8)], 1, lanes=8
    )
    batches = [batch for _, batch in zip(range(1024), whole, strict=False)]
    assert len({p for batch in batches for p in batch}) == 8 * 1024
    seen = collections.defaultdict(set)
    for k, batch in enumerate(batches):
        rank, worker = k % 2, (k // 2) % workers
        seen[batch[0] // 512].add((rank, worker))
    assert all(len(readers) == 1 for readers in seen.values())
