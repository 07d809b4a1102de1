"""Measure how many sessions one model serves in real time, under a load in which all are active."""

import copy
import dataclasses
import math
import statistics
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from duplexmamba.duplex.session import Session, push_batched

MAX_BUSY_FRACTION = 0.5
"""Fraction of a slice's duration that processing one slice of all sessions may take. The rest is
left for other work of the machine."""
NUM_WARM_UP_SLICES = 2
NUM_TIMED_SLICES = 6
MAX_SESSIONS = 512
"""The search stops at this many sessions."""
RESPONSE_INTERVAL_S = 2.0
NOISE_LEVEL = 0.1
"""Standard deviation of the noise, relative to full scale."""


def busy(session: Session) -> Session:
    """Copy a session so that it starts a new response every two seconds, whatever it processes.

    The copy therefore listens and responds all the time, which is the highest load.
    """
    busy_session = copy.copy(session)
    min_slices = math.ceil(RESPONSE_INTERVAL_S / session.slice_s)
    busy_session.duplex = dataclasses.replace(
        session.duplex, response_threshold=0.0, min_slices=min_slices
    )
    return busy_session


def noise(session: Session, seed: int = 0) -> Iterator[Tensor]:
    """Yield slices of white noise, (slice_samples,) each, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield NOISE_LEVEL * torch.randn(session.slice_samples, generator=generator)


def step_s(sessions: Sequence[Session], slices: Iterator[Tensor]) -> float:
    """Time that processing one slice of each session takes, in seconds."""
    inputs = [next(slices) for _ in sessions]  # before the timer starts
    start_s = time.perf_counter()
    push_batched(sessions, inputs)
    return time.perf_counter() - start_s


def capacity(session: Session, most: int = MAX_SESSIONS) -> tuple[int, float]:
    """Measure how many sessions can run at once, by doubling their number.

    Args:
        session: a new session over the model.
        most: upper limit of the search.

    Returns:
        The number of sessions, and the time of one slice of all of them in seconds. The number is
        at least 1, so that a model that is too slow can still be tried.
    """
    slices = noise(session)
    allowed_s = MAX_BUSY_FRACTION * session.slice_s
    best_count = 1
    best_s = 0.0
    count = 1
    # Doubling finds the limit in few measurements, and interpolation refines it.
    while count <= most:
        group = [busy(session) for _ in range(count)]
        times_s = [step_s(group, slices) for _ in range(NUM_WARM_UP_SLICES + NUM_TIMED_SLICES)]
        # The median ignores single slices that another program has delayed.
        median_s = statistics.median(times_s[NUM_WARM_UP_SLICES:])
        if median_s > allowed_s:
            if count == 1:
                return 1, median_s
            return _interpolate(best_count, best_s, count, median_s, allowed_s), allowed_s
        best_count = count
        best_s = median_s
        count *= 2
    return best_count, best_s


def _interpolate(low: int, low_s: float, high: int, high_s: float, allowed_s: float) -> int:
    """Count at which the line through two measured counts and times reaches the allowed time."""
    return low + int((high - low) * (allowed_s - low_s) / (high_s - low_s))
