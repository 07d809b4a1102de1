"""Endless draws from several corpora in fixed shares, with random access.

The utterance of draw n is a pure function of (seed, n), so that any process can start at any draw:

1. Shares. The weights become whole quotas: of each block of BLOCK draws, corpus c gets quotas[c]
   (`quotas`).
2. Block. Draw n is position n % BLOCK of block n // BLOCK. A permutation seeded with (seed, block)
   assigns the positions of the block to corpora, each corpus exactly as often as its quota
   (`_assign_block`).
3. Rank. The rank of draw n within corpus c counts the draws that c had before: block * quotas[c],
   plus those at earlier positions of this block. Because every block has the same quotas, no
   earlier block has to be computed.
4. Round. rank // len(c) is the number of complete passes through the corpus, rank % len(c) the
   position in this pass.
5. Order. A permutation seeded with (seed, round, c) maps the position to an utterance, so that each
   pass visits every utterance once, in a new order (`_round_order`). Corpora whose utterances are
   cheaper to read in groups, such as the row groups of remote parquet files, are permuted group by
   group and then within short windows (`shuffled`).
"""

from collections.abc import Sequence, Sized
from functools import lru_cache
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np

AnyCorpus = TypeVar("AnyCorpus", bound=Sized)

BLOCK = 1000
"""Draws in which every corpus has its exact share, and at least one draw."""
SHUFFLE_WINDOW = 256
"""Consecutive utterances of a grouped corpus that are permuted among each other.

It bounds the number of groups that are read at a time.
"""


@runtime_checkable
class Grouped(Protocol):
    """A corpus that is cheaper to read group by group."""

    groups: np.ndarray | None
    """(len,) number of each utterance's group; None: every order costs the same."""


class Mixture(Generic[AnyCorpus]):
    """Corpora in fixed shares; each pass through a corpus has a new order.

    Args:
        corpora: the corpora, none empty.
        weights: share of each corpus, of any sum, each above 0.
        seed: selects the orders.
    """

    def __init__(self, corpora: Sequence[AnyCorpus], weights: Sequence[float], seed: int):
        assert len(corpora) == len(weights) > 0
        self.corpora = corpora
        self.seed = seed
        self.quotas = quotas(weights, BLOCK)

    def __len__(self) -> int:
        """Utterances of all corpora."""
        return sum(len(corpus) for corpus in self.corpora)

    def locate(self, draw: int) -> tuple[AnyCorpus, int]:
        """Corpus and utterance index of a draw."""
        # The numbered steps are explained at the top of this file: block,
        block, position = divmod(draw, BLOCK)
        assignment, ranks = _assign_block(self.seed, block, self.quotas)
        number = int(assignment[position])
        corpus = self.corpora[number]
        # rank within the corpus,
        rank = block * self.quotas[number] + int(ranks[position])
        # round and order.
        round_number, index = divmod(rank, len(corpus))
        order = _round_order(self, round_number, number)
        return corpus, int(order[index])

    @property
    def is_grouped(self) -> bool:
        """Whether a corpus should be read group by group."""
        return any(groups_of(corpus) is not None for corpus in self.corpora)


def groups_of(corpus: Sized) -> np.ndarray | None:
    """(len,) group of each utterance; None where the order does not matter (see `Grouped`)."""
    return corpus.groups if isinstance(corpus, Grouped) else None


def tempered(weights: Sequence[float], temperature: float) -> list[float]:
    """Raise weights to the power 1 / temperature, relative to the largest weight.

    A temperature above 1 makes the shares more alike, as in multilingual training.
    """
    # Division by the largest: no power overflows.
    largest = max(weights)
    return [(weight / largest) ** (1 / temperature) for weight in weights]


def quotas(weights: Sequence[float], total: int) -> tuple[int, ...]:
    """Whole numbers in the ratio of the weights that sum to `total`, each at least 1 (largest
    remainder method)."""
    # One is reserved for each, so that even a tiny corpus occurs in every block.
    divisible = total - len(weights)
    exact = [weight / sum(weights) * divisible for weight in weights]
    counts = [1 + int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: int(exact[i]) - exact[i])
    num_missing = total - sum(counts)
    for i in by_remainder[:num_missing]:
        counts[i] += 1
    return tuple(counts)


@lru_cache(maxsize=4)
def _assign_block(seed: int, block: int, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Corpus number of each draw of a block (BLOCK,), and how many earlier draws of the block this
    corpus has (BLOCK,)."""
    # Cached: consecutive draws share a block.
    rng = np.random.default_rng([seed, block, 1])
    assignment = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    ranks = np.zeros_like(assignment)
    for number, count in enumerate(counts):
        ranks[assignment == number] = np.arange(count)
    return assignment, ranks


@lru_cache(maxsize=16)
def _round_order(mixture: Mixture, round_number: int, number: int) -> np.ndarray:
    """Order of the utterances of corpus `number` in one pass, (len,)."""
    corpus = mixture.corpora[number]
    rng = np.random.default_rng([mixture.seed, round_number, number])
    return shuffled(len(corpus), groups_of(corpus), rng)


def shuffled(size: int, groups: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Random order of `size` utterances.

    Args:
        size: number of utterances.
        groups: (size,) group of each; with it the groups come in random order, and windows of
            SHUFFLE_WINDOW utterances are permuted, so that consecutive draws need only a few groups at
            once.
        rng: source of the permutations.

    Returns:
        (size,) a permutation.
    """
    if groups is None:
        return rng.permutation(size)
    group_order = rng.permutation(int(groups.max()) + 1)
    order = np.argsort(group_order[groups], kind="stable")
    # Sorted by group, the utterances of one group would follow each other in corpus order.
    windows = []
    for start in range(0, size, SHUFFLE_WINDOW):
        windows.append(rng.permutation(order[start : start + SHUFFLE_WINDOW]))
    return np.concatenate(windows)
