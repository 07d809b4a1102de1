"""Means, spread over seeds, what seed noise can explain, and the importance of parameters."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sweeps.report.gather import Gathered, key
from sweeps.report.sweep_file import is_seed

T_975 = (12.71, 4.31, 3.19, 2.78, 2.58, 2.45, 2.37, 2.31, 2.27, 2.23)
"""Student's t: 97.5 % lie below, for 1, 2, ... degrees of freedom. From 10 on the last one holds: a little too much."""
MAX_LEVELS, GROUPS = 6, 4
"""A parameter with more different numbers than that counts as that many groups of about equal size."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Points that differ in nothing but the seed."""

    parameters: dict[str, Any]
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds, from two on."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None


@dataclasses.dataclass(frozen=True)
class Noise:
    """How much settings differ by their seeds alone, taken to be the same for all of them."""

    deviation: float
    freedom: int

    def allows(self, a: Setting, b: Setting) -> float:
        """Largest difference of two means that seeds alone explain in 95 of 100 pairs (Student's t)."""
        t = T_975[min(self.freedom, len(T_975)) - 1]
        return t * self.deviation * math.sqrt(1 / len(a.scores) + 1 / len(b.scores))


@dataclasses.dataclass(frozen=True)
class Importance:
    """Eta squared of one parameter: its share of the variance of the score."""

    share: float
    by_chance: float
    """What a parameter without any effect would have on average."""


def settings(gathered: Gathered) -> list[Setting]:
    """Of all finished points, the best first."""
    found: dict[str, Setting] = {}
    for point in gathered.finished:
        others = {name: value for name, value in point.parameters.items() if not is_seed(name)}
        before = found.get(key(others), Setting(others, ()))
        found[key(others)] = Setting(others, (*before.scores, gathered.score(point)))
    return sorted(found.values(), key=lambda setting: gathered.file.sign * setting.mean)


def noise(found: Iterable[Setting]) -> Noise | None:
    """Pooled over all settings; None where no setting has two seeds."""
    repeated = [setting for setting in found if len(setting.scores) > 1]
    freedom = sum(len(setting.scores) - 1 for setting in repeated)
    if not freedom:
        return None
    squares = sum((len(s.scores) - 1) * statistics.variance(s.scores) for s in repeated)
    return Noise(math.sqrt(squares / freedom), freedom)


def tied(best: Setting, others: Iterable[Setting], seeds: Noise | None) -> list[Setting]:
    """Those that cannot be told apart from the best."""
    return [
        other
        for other in others
        if seeds and abs(other.mean - best.mean) <= seeds.allows(best, other)
    ]


def importance(gathered: Gathered) -> dict[str, Importance]:
    """Of every swept parameter, the greatest first; empty where fewer than two points have finished."""
    scores = np.array([gathered.score(point) for point in gathered.finished])
    if len(scores) < 2:
        return {}
    found = {}
    for name in gathered.file.swept:
        groups = levels([point.parameters[name] for point in gathered.finished])
        by_chance = (len(set(groups)) - 1) / (len(scores) - 1)
        found[name] = Importance(eta_squared(groups, scores), by_chance)
    return dict(sorted(found.items(), key=lambda item: -item[1].share))


def distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once, numbers in their order and others as they come; lists are values too."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return sorted(found) if all(map(is_number, found)) else found


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def eta_squared(groups: Sequence[Any], scores: np.ndarray) -> float:
    """Variance between the means of groups, as a share of all variance; 0 where there is none."""
    members = [scores[[group == each for group in groups]] for each in dict.fromkeys(groups)]
    between = sum(len(each) * (each.mean() - scores.mean()) ** 2 for each in members)
    total = ((scores - scores.mean()) ** 2).sum()
    return float(between / total) if total > 0 else 0.0


def levels(values: Sequence[Any]) -> list[Any]:
    """What counts as the same value of a parameter."""
    if not all(map(is_number, values)) or len(distinct(values)) <= MAX_LEVELS:
        return [key({"": value}) for value in values]
    edges = np.quantile(values, np.linspace(0, 1, GROUPS + 1)[1:-1])
    return np.searchsorted(edges, values).tolist()
