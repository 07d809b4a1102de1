"""W&B's distributions that Optuna does not have, as functions of a number that Optuna draws.

Optuna draws and models the number in a range; the parameter's value follows from it. Meaning and
names are those of W&B's sweep files.
"""

import bisect
import itertools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

Entry = dict[str, Any]
"""A parameter in a sweep file."""

MARGIN = 1e-6
"""Probability that is left out at both ends of a normal distribution, whose tails have no end."""
SMALLEST = 1e-300
"""Stands for 0 where its logarithm is needed."""
Q = "q_"
"""Beginning of the names of distributions whose values are rounded to multiples of `q`."""
DEFAULT_STEP = 1
"""Value of `q`, unless the entry names one."""
DEFAULT_MU = 0.0
DEFAULT_SIGMA = 1.0


class Derived(NamedTuple):
    """A distribution of values that are computed from a number in a range."""

    bounds: Callable[[Entry], tuple[float, float]]
    """Range of the number."""
    value: Callable[[Entry, float], float]
    """Value of the parameter for the number."""
    number: Callable[[Entry, float], float]
    """Inverse of `value`."""


def _given_bounds(entry: Entry) -> tuple[float, float]:
    return float(entry["min"]), float(entry["max"])


def _log_bounds(entry: Entry) -> tuple[float, float]:
    return math.log(entry["min"]), math.log(entry["max"])


def _probabilities(entry: Entry) -> tuple[float, float]:
    return MARGIN, 1 - MARGIN


def _normal(entry: Entry) -> NormalDist:
    return NormalDist(entry.get("mu", DEFAULT_MU), entry.get("sigma", DEFAULT_SIGMA))


def _log(value: float) -> float:
    return math.log(max(value, SMALLEST))


LOG = Derived(
    _given_bounds,
    lambda entry, number: math.exp(number),
    lambda entry, value: _log(value),
)
NORMAL = Derived(
    _probabilities,
    lambda entry, number: _normal(entry).inv_cdf(number),
    lambda entry, value: _normal(entry).cdf(value),
)
DERIVED = {
    "log_uniform": LOG,
    "log_uniform_values": LOG._replace(bounds=_log_bounds),
    "inv_log_uniform": Derived(
        _given_bounds,
        lambda entry, number: math.exp(-number),
        lambda entry, value: -_log(value),
    ),
    # The logarithm of 1/X is uniform where that of X is, in the opposite direction.
    "inv_log_uniform_values": LOG._replace(bounds=_log_bounds),
    "normal": NORMAL,
    "log_normal": Derived(
        _probabilities,
        lambda entry, number: math.exp(_normal(entry).inv_cdf(number)),
        lambda entry, value: _normal(entry).cdf(_log(value)),
    ),
}
"""Name of the distribution -> how its values are computed; each has a rounded form `q_...` too."""
WITHOUT_RANGE = ("normal", "log_normal")
"""Distributions with mu and sigma in place of min and max."""


def base_name(distribution: str) -> str:
    """Name of a distribution without the mark of rounding."""
    return distribution.removeprefix(Q)


def bounds_of(entry: Entry) -> tuple[float, float]:
    """Range of the number from which a parameter's value is computed.

    Args:
        entry: of a parameter with a distribution of this module.
    """
    return DERIVED[base_name(entry["distribution"])].bounds(entry)


def value_of(entry: Entry, number: float) -> float:
    """Value of a parameter for a number in its range; a rounded one is a whole number if q is.

    Args:
        entry: of a parameter with a distribution of this module.
        number: that Optuna has drawn.
    """
    distribution = entry["distribution"]
    value = DERIVED[base_name(distribution)].value(entry, number)
    if not distribution.startswith(Q):
        return value
    step = entry.get("q", DEFAULT_STEP)
    return round(value / step) * step


def number_of_value(entry: Entry, value: float) -> float:
    """The number whose value is nearest to that of a trial: inverse of `value_of`.

    Args:
        entry: of a parameter with a distribution of this module.
        value: of the parameter.
    """
    low, high = bounds_of(entry)
    number = DERIVED[base_name(entry["distribution"])].number(entry, value)
    # A rounded value may lie outside.
    return min(high, max(low, number))


def choice_of(probabilities: list[float], number: float) -> int:
    """Index of the choice that a number stands for, each choice with its probability.

    Args:
        probabilities: of the choices; their sum is 1.
        number: between 0 and 1.
    """
    ends = list(itertools.accumulate(probabilities))
    # The sum may be a little less than 1.
    return min(bisect.bisect_right(ends, number), len(probabilities) - 1)


def number_of_choice(probabilities: list[float], index: int) -> float:
    """A number that stands for a choice: inverse of `choice_of`.

    Args:
        probabilities: of the choices.
        index: of the choice.
    """
    return min(1.0, sum(probabilities[:index]) + probabilities[index] / 2)
