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
        """
        t = T_975[min(self.degrees_of_freedom, len(T_975)) - 1]
        return t * self.deviation * math.sqrt(1 / len(a.scores) + 1 / len(b.scores))


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
        scores = settings[key].scores if key in settings else ()
        settings[key] = Setting(parameters, (*scores, results.score(trial)))
    return sorted(settings.values(), key=lambda setting: results.file.sign * setting.mean)


def seed_noise(settings: Iterable[Setting]) -> SeedNoise | None:
    """Deviation over seeds, pooled over all settings; None if no setting has two seeds."""
    squares = 0.0
    degrees_of_freedom = 0
    for setting in settings:
        if len(setting.scores) > 1:
            own_degrees = len(setting.scores) - 1
            squares += own_degrees * statistics.variance(setting.scores)
            degrees_of_freedom += own_degrees
    if degrees_of_freedom == 0:
        return None
    return SeedNoise(math.sqrt(squares / degrees_of_freedom), degrees_of_freedom)


def tied_with(best: Setting, others: Iterable[Setting], noise: SeedNoise | None) -> list[Setting]:
    """Settings whose difference from the best may be due to seeds; none if noise is unknown."""
    if noise is None:
        return []
    tied = []
    for other in others:
        if abs(other.mean - best.mean) <= noise.max_difference(best, other):
            tied.append(other)
    return tied


def importance(results: SweepResults) -> dict[str, Importance]:
    """Importance of every swept parameter, the largest first.

    Returns:
        Parameter -> importance; empty if fewer than two trials have finished.
    """
    scores = np.array([results.score(trial) for trial in results.finished])
    if len(scores) < 2:
        return {}
    importances = {}
    for name in results.file.swept:
        groups = levels([trial.parameters[name] for trial in results.finished])
        # Expected eta squared of g random groups of n scores.
        by_chance = (len(set(groups)) - 1) / (len(scores) - 1)
        importances[name] = Importance(eta_squared(groups, scores), by_chance)
    return dict(sorted(importances.items(), key=lambda item: -item[1].share))


def eta_squared(groups: Sequence[Any], scores: np.ndarray) -> float:
    """Share of the variance that lies between the means of groups; 0 if there is no variance.

    Args:
        groups: group of each score.
        scores: (n,)
    """
    between = 0.0
    for group in dict.fromkeys(groups):
        members = scores[[each == group for each in groups]]
        between += len(members) * (members.mean() - scores.mean()) ** 2
    total = ((scores - scores.mean()) ** 2).sum()
    return float(between / total) if total > 0 else 0.0


def levels(values: Sequence[Any]) -> list[Any]:
    """Group of each value: equal values, or quantiles of a parameter with many numbers."""
    if not are_numbers(values) or len(distinct(values)) <= MAX_LEVELS:
        return [parameters_key({"": value}) for value in values]
    edges = np.quantile(values, np.linspace(0, 1, NUM_GROUPS + 1)[1:-1])
    return np.searchsorted(edges, values).tolist()
