"""Means, spread over seeds, differences that seeds can explain, and importance of parameters."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from reporting.values import are_numbers, distinct
from sweeps.report.gather import SweepResults, parameters_key
from sweeps.report.sweep_file import is_seed

T_975 = (12.71, 4.31, 3.19, 2.78, 2.58, 2.45, 2.37, 2.31, 2.27, 2.23)
"""Student's t: 97.5 % of the distribution lie below, for 1, 2, ... degrees of freedom. The last
value, which is a little too large, is used from 10 degrees on."""
MAX_LEVELS = 6
NUM_GROUPS = 4
"""A parameter with more than `MAX_LEVELS` different numbers is divided into `NUM_GROUPS` groups of
about equal size."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Trials that differ only in their seed."""

    parameters: dict[str, Any]
    """Parameters except seeds."""
    scores: tuple[float, ...]
    """Metric of each trial."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None with a single seed."""
        if len(self.scores) < 2:
            return None
        return statistics.stdev(self.scores)


@dataclasses.dataclass(frozen=True)
class SeedNoise:
    """Deviation over seeds, assumed to be equal for all settings."""

    deviation: float
    degrees_of_freedom: int

    def max_difference(self, a: Setting, b: Setting) -> float:
        """Largest difference of two means that seeds explain in 95 of 100 pairs.

        This is Student's t-test with the pooled deviation.

        Args:
            a: one setting.
            b: another one.
        """
        row = min(self.degrees_of_freedom, len(T_975))
        t = T_975[row - 1]
        # Variance of a difference of means, in units of the variance of one score.
        variance = 1 / len(a.scores) + 1 / len(b.scores)
        return t * self.deviation * math.sqrt(variance)


@dataclasses.dataclass(frozen=True)
class Importance:
    """Eta squared of a parameter: its share of the variance of the metric."""

    share: float
    by_chance: float
    """Mean share of a parameter without any effect."""


def rank_settings(results: SweepResults) -> list[Setting]:
    """Settings of all finished trials, the best first."""
    settings: dict[str, Setting] = {}
    for trial in results.finished:
        parameters = {}
        for name, value in trial.parameters.items():
            if not is_seed(name):
                parameters[name] = value
        key = parameters_key(parameters)
        earlier = settings[key].scores if key in settings else ()
        scores = (*earlier, results.score(trial))
        settings[key] = Setting(parameters, scores)
    sign = results.file.sign
    return sorted(settings.values(), key=lambda setting: sign * setting.mean)


def seed_noise(settings: Iterable[Setting]) -> SeedNoise | None:
    """Deviation over seeds, pooled over all settings; None if no setting has two seeds."""
    squares = 0.0
    degrees_of_freedom = 0
    for setting in settings:
        # Each setting loses one degree to its own mean.
        own_degrees = len(setting.scores) - 1
        if own_degrees > 0:
            squares += own_degrees * statistics.variance(setting.scores)
            degrees_of_freedom += own_degrees
    if degrees_of_freedom == 0:
        return None
    return SeedNoise(math.sqrt(squares / degrees_of_freedom), degrees_of_freedom)


def tied_with(best: Setting, others: Iterable[Setting], noise: SeedNoise | None) -> list[Setting]:
    """Settings whose difference from the best may be due to seeds.

    Args:
        best: the best setting.
        others: the other settings.
        noise: of the seeds; None if it is unknown, which finds no ties.
    """
    if noise is None:
        return []
    tied = []
    for other in others:
        difference = abs(other.mean - best.mean)
        if difference <= noise.max_difference(best, other):
            tied.append(other)
    return tied


def importance(results: SweepResults) -> dict[str, Importance]:
    """Importance of every swept parameter, the largest first.

    Args:
        results: of the sweep.

    Returns:
        Parameter -> importance; empty if fewer than two trials have finished.
    """
    trials = results.finished
    if len(trials) < 2:
        return {}
    scores = np.array([results.score(trial) for trial in trials])  # (trials,)
    importances = {}
    for name in results.file.swept:
        groups = levels([trial.parameters[name] for trial in trials])
        share = eta_squared(groups, scores)
        # Expected eta squared of g random groups of n scores: (g - 1) / (n - 1).
        num_groups = len(set(groups))
        by_chance = (num_groups - 1) / (len(scores) - 1)
        importances[name] = Importance(share, by_chance)
    return dict(sorted(importances.items(), key=lambda item: -item[1].share))


def eta_squared(groups: Sequence[Any], scores: np.ndarray) -> float:
    """Share of the variance that lies between the means of groups; 0 if there is no variance.

    Args:
        groups: group of each score.
        scores: (n,)
    """
    mean = scores.mean()
    total = ((scores - mean) ** 2).sum()
    if not total > 0:
        return 0.0
    between = 0.0
    # In the order of the groups' first members, since the order of sums changes their last digit.
    for group in dict.fromkeys(groups):
        is_member = [other == group for other in groups]
        members = scores[is_member]  # (members,)
        between += len(members) * (members.mean() - mean) ** 2
    return float(between / total)


def levels(values: Sequence[Any]) -> list[Any]:
    """Group of each value.

    Args:
        values: of a parameter.

    Returns:
        A number or text for each value, which is the same for equal values, or, if there are many
        different numbers, for numbers between the same two quantiles.
    """
    is_continuous = are_numbers(values) and len(distinct(values)) > MAX_LEVELS
    if not is_continuous:
        # A text, since values may be lists, which cannot be counted in a set.
        return [parameters_key({"": value}) for value in values]
    shares = np.linspace(0, 1, NUM_GROUPS + 1)
    edges = np.quantile(values, shares[1:-1])  # (NUM_GROUPS - 1,)
    return np.searchsorted(edges, values).tolist()
