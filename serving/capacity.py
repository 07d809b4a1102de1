"""How many conversations one model holds in real time, measured: by the load of conversations in which all talk."""

import copy
import dataclasses
import math
import statistics
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from duplexmamba.duplex.session import Session, push_batched

SHARE = 0.5
"""Of a slice's time that a step of all conversations may take: the rest is for what else the machine does."""
TRIED = 6
"""Slices that are timed; two before them are not."""
MOST = 512


def busy(session: Session) -> Session:
    """A copy that answers whatever it hears, every two seconds anew: it listens and speaks all the time."""
    other = copy.copy(session)
    patience = math.ceil(2 / session.slice_s)
    other.duplex = dataclasses.replace(session.duplex, response_threshold=0.0, min_slices=patience)
    return other


def noise(session: Session, seed: int = 0) -> Iterator[Tensor]:
    """Slices without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield 0.1 * torch.randn(session.slice_samples, generator=generator)


def step_s(sessions: Sequence[Session], heard: Iterator[Tensor]) -> float:
    """Seconds that a slice of all of them takes."""
    slices = [next(heard) for _ in sessions]
    began_s = time.perf_counter()
    push_batched(sessions, slices)
    return time.perf_counter() - began_s


def capacity(session: Session, most: int = MOST) -> tuple[int, float]:
    """How many conversations can go on at once, by doubling, and the seconds that a slice of all of them takes.

    At least one: a model that is too slow for that should still be talked with.
    """
    heard, allowed_s, found, count = noise(session), SHARE * session.slice_s, (1, 0.0), 1
    while count <= most:
        group = [busy(session) for _ in range(count)]
        taken_s = statistics.median([step_s(group, heard) for _ in range(2 + TRIED)][2:])
        if taken_s > allowed_s:
            return (
                (_between(found, (count, taken_s), allowed_s), allowed_s)
                if found[1]
                else (1, taken_s)
            )
        found, count = (count, taken_s), 2 * count
    return found


def _between(below: tuple[int, float], above: tuple[int, float], allowed_s: float) -> int:
    """Where the straight line from a count and its time to another count passes the time allowed."""
    (few, few_s), (many, many_s) = below, above
    return few + int((many - few) * (allowed_s - few_s) / (many_s - few_s))
