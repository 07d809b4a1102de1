"""Endless draws from several corpora in fixed shares: which utterance draw n is, is a pure function of (seed, n)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np

from datamodules.corpus import Corpus

BLOCK = 1000
"""Draws of which every corpus has its exact share, at least one."""
STIRRED = 256
"""Consecutive utterances of a grouped corpus that change places."""


@runtime_checkable
class Grouped(Protocol):
    """A corpus that is cheaper to read group by group."""

    groups: np.ndarray | None
    """(len,) number of each utterance's group; None: in any order."""


class Mixture:
    """Corpora, each gone through in a new order every time round.

    Args:
        weights: of any sum, more than 0.
    """

    def __init__(self, corpora: Sequence[Corpus], weights: Sequence[float], seed: int):
        assert len(corpora) == len(weights) > 0
        self.corpora, self.seed = corpora, seed
        self.quotas = quotas(weights, BLOCK)

    def __len__(self) -> int:
        """Utterances of all corpora."""
        return sum(map(len, self.corpora))

    def locate(self, draw: int) -> tuple[Corpus, int]:
        """Corpus and index of a draw."""
        block, place = divmod(draw, BLOCK)
        which, nth = _block(self.seed, block, self.quotas)
        source = int(which[place])
        corpus = self.corpora[source]
        round_, place = divmod(block * self.quotas[source] + int(nth[place]), len(corpus))
        return corpus, int(_order(self, round_, source)[place])

    @property
    def is_grouped(self) -> bool:
        """Whether a corpus is to be read group by group."""
        return any(groups_of(corpus) is not None for corpus in self.corpora)


def groups_of(corpus: Corpus) -> np.ndarray | None:
    """See `Grouped`."""
    return corpus.groups if isinstance(corpus, Grouped) else None


def tempered(weights: Sequence[float], temperature: float) -> list[float]:
    """weight ^ (1 / temperature), scaled so that no power overflows."""
    return [(weight / max(weights)) ** (1 / temperature) for weight in weights]


def quotas(weights: Sequence[float], total: int) -> tuple[int, ...]:
    """Whole numbers in the ratio of the weights, none 0, that make up `total` (largest remainders)."""
    exact = [weight / sum(weights) * (total - len(weights)) for weight in weights]
    counts = [1 + int(value) for value in exact]
    for i in sorted(range(len(exact)), key=lambda i: int(exact[i]) - exact[i])[
        : total - sum(counts)
    ]:
        counts[i] += 1
    return tuple(counts)


@lru_cache(maxsize=4)
def _block(seed: int, block: int, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Of each draw of a block: its corpus, and how many draws of the block that corpus has had before."""
    which = np.random.default_rng([seed, block, 1]).permutation(
        np.repeat(np.arange(len(counts)), counts)
    )
    nth = np.zeros_like(which)
    for source, count in enumerate(counts):
        nth[which == source] = np.arange(count)
    return which, nth


@lru_cache(maxsize=16)
def _order(mixture: Mixture, round_: int, source: int) -> np.ndarray:
    corpus = mixture.corpora[source]
    rng = np.random.default_rng([mixture.seed, round_, source])
    return shuffled(len(corpus), groups_of(corpus), rng)


def shuffled(size: int, groups: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """(size,) a random order; with `groups`, group by group, stirred a little."""
    if groups is None:
        return rng.permutation(size)
    order = np.argsort(rng.permutation(int(groups.max()) + 1)[groups], kind="stable")
    return np.concatenate(
        [rng.permutation(order[i : i + STIRRED]) for i in range(0, size, STIRRED)]
    )
